# The first byte of every value. docs/snapshot_format.md says what follows each; the numbers never change.
cdef enum:
    FORMAT_VERSION = 1

    TAG_NONE = 0x00
    TAG_FALSE = 0x01
    TAG_TRUE = 0x02
    TAG_INT = 0x03
    TAG_BIG_INT = 0x04
    TAG_FLOAT = 0x05
    TAG_COMPLEX = 0x06
    TAG_STR = 0x07
    TAG_STR_SURROGATES = 0x08
    TAG_STR_AGAIN = 0x09
    TAG_BYTES = 0x0A
    TAG_BYTEARRAY = 0x0B
    TAG_AGAIN = 0x0C

    TAG_LIST = 0x10
    TAG_TUPLE = 0x11
    TAG_DICT = 0x12
    TAG_SET = 0x13
    TAG_FROZENSET = 0x14

    TAG_DATE = 0x18
    TAG_TIME = 0x19
    TAG_DATETIME = 0x1A
    TAG_TIMEDELTA = 0x1B
    TAG_UTC = 0x1C
    TAG_TIMEZONE = 0x1D
    TAG_NAMED_TIMEZONE = 0x1E
    TAG_ZONEINFO = 0x1F
    TAG_UUID = 0x20
    TAG_DECIMAL = 0x21

    TAG_ARRAY = 0x28
    TAG_NUMPY_SCALAR = 0x29
    TAG_NUMPY_STR = 0x2A
    TAG_NUMPY_BYTES = 0x2B

    TAG_INSTANCE = 0x30

    TAG_JSON = 0x38
    TAG_HELD_BYTES = 0x39
    TAG_NATIVE = 0x3A
    TAG_NATIVE_BYTES = 0x3B
    TAG_HELD_VALUE = 0x3C

    TAG_FIRST_EXTENSION = 0x60
    TAG_LAST_EXTENSION = 0x7F
    TAG_SMALL_INT = 0x80                    # 0x80 + n is the int n

    # A str this long or longer is known again as an object, a shorter one by what it says.
    LONG_STR = 64
    # bytes this long or longer are known again.
    LONG_BYTES = 64
