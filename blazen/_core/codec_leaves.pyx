# cython: auto_pickle=False
"""Values of the standard library that hold no others: big integers, dates and times, UUIDs, Decimals.

Their classes are looked up where they are already loaded; decoding imports a module only when it meets a value of it.
"""

from __future__ import annotations

import datetime
import sys

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.datetime cimport (
    PyDate_CheckExact, PyDateTime_CheckExact, PyDelta_CheckExact, PyTime_CheckExact, date_day, date_month, date_new,
    date_year, datetime_day, datetime_fold, datetime_hour, datetime_microsecond, datetime_minute, datetime_month,
    datetime_new, datetime_second, datetime_tzinfo, datetime_year, import_datetime, time_fold, time_hour,
    time_microsecond, time_minute, time_new, time_second, time_tzinfo, timedelta_days, timedelta_microseconds,
    timedelta_new, timedelta_seconds
)
from libc.stdint cimport int64_t, uint64_t

from blazen._core.codec_bytes cimport (
    Input, Output, put_byte, put_fixed, put_name, put_raw, put_counted, put_signed, take_byte, take_count, take_fixed,
    take_name, take_raw, take_signed
)
from blazen._core.codec_tags cimport *

import_datetime()

__all__: list[str] = []

cdef object timezone = datetime.timezone
cdef object utc = datetime.timezone.utc
cdef object zoneinfo_class = None           # each None until the process has loaded its module
cdef object uuid_class = None
cdef object decimal_class = None
cdef tuple uuid_safety = ()                 # SafeUUID by the number it is written as
cdef set findable_zones = set()             # keys that ZoneInfo has been seen to find
cdef object set_attribute = object.__setattr__


cdef int _note_loaded_modules() except -1:
    """Note the classes whose modules the process has loaded by now."""
    global zoneinfo_class, uuid_class, decimal_class, uuid_safety
    zoneinfo_class = getattr(sys.modules.get("zoneinfo"), "ZoneInfo", None)
    decimal_class = getattr(sys.modules.get("decimal"), "Decimal", None)
    # The last of the names that are needed: another thread may be in the middle of importing the module.
    uuid_class = getattr(sys.modules.get("uuid"), "UUID", None)
    if uuid_class is not None:
        safety = sys.modules["uuid"].SafeUUID
        uuid_safety = (safety.unknown, safety.safe, safety.unsafe)
    return 0


cdef int put_big_int(Output out, object value) except -1:
    cdef Py_ssize_t size = (value.bit_length() + 8) // 8
    cdef bytes raw = value.to_bytes(size, "little", signed=True)
    put_byte(out, TAG_BIG_INT)
    return put_counted(out, PyBytes_AS_STRING(raw), size)


cdef object take_big_int(Input data):
    cdef Py_ssize_t start = data.at
    cdef Py_ssize_t size = take_count(data, 1, "the bytes of an int")
    cdef const unsigned char *raw = take_raw(data, size, "the bytes of an int")
    value = int.from_bytes(PyBytes_FromStringAndSize(<const char *>raw, size), "little", signed=True)
    if size <= 8 or (value.bit_length() + 8) // 8 != size:
        data.fail(start, "an int is written with more bytes than it needs")
    return value


cdef int _put_clock(Output out, int hour, int minute, int second, int microsecond, int fold) except -1:
    cdef uint64_t since_midnight = ((hour * 60 + minute) * 60 + second) * <uint64_t>1000000 + microsecond
    return put_fixed(out, since_midnight << 1 | <uint64_t>fold, 5)


cdef int _put_zone(Output out, object zone) except -1:
    cdef tuple arguments
    if zone is None:
        return put_byte(out, TAG_NONE)
    if zone is utc:
        return put_byte(out, TAG_UTC)
    if type(zone) is timezone:
        arguments = zone.__getinitargs__()
        put_byte(out, TAG_TIMEZONE if len(arguments) == 1 else TAG_NAMED_TIMEZONE)
        _put_delta(out, arguments[0])
        return 0 if len(arguments) == 1 else put_name(out, arguments[1])
    key = zone.key
    if type(key) is not str:
        raise ValueError(f"a ZoneInfo has the key {key!r}, which is no str")
    if key not in findable_zones:
        # Made by ZoneInfo.from_file, it may have a key that leads nowhere. Better to hear of it now than when reading.
        type(zone)(key)
        findable_zones.add(key)
    put_byte(out, TAG_ZONEINFO)
    return put_name(out, key)


cdef int _put_delta(Output out, object value) except -1:
    put_signed(out, timedelta_days(value))
    return put_fixed(out, <uint64_t>timedelta_seconds(value) * 1000000 + timedelta_microseconds(value), 5)


cdef int _put_uuid(Output out, object value) except -1:
    cdef bytes raw = value.int.to_bytes(16, "big")
    cdef int safety
    for safety in range(3):
        if value.is_safe is uuid_safety[safety]:
            put_byte(out, TAG_UUID)
            put_raw(out, PyBytes_AS_STRING(raw), 16)
            return put_byte(out, safety)
    raise ValueError("a UUID has an is_safe that is no SafeUUID")


cdef str _decimal_text(object value):
    # The context may ask for a small e.
    return str(value).replace("e", "E")


cdef bint put_leaf(Output out, object value) except -1:
    """Write `value` if it is of a type of this module; False if it is not, and nothing was written."""
    if PyDateTime_CheckExact(value):
        put_byte(out, TAG_DATETIME)
        put_fixed(out, datetime_year(value), 2)
        put_byte(out, datetime_month(value))
        put_byte(out, datetime_day(value))
        _put_clock(
            out, datetime_hour(value), datetime_minute(value), datetime_second(value), datetime_microsecond(value),
            datetime_fold(value)
        )
        _put_zone(out, datetime_tzinfo(value))
        return True
    if PyDate_CheckExact(value):
        put_byte(out, TAG_DATE)
        put_fixed(out, date_year(value), 2)
        put_byte(out, date_month(value))
        put_byte(out, date_day(value))
        return True
    if PyTime_CheckExact(value):
        put_byte(out, TAG_TIME)
        _put_clock(
            out, time_hour(value), time_minute(value), time_second(value), time_microsecond(value), time_fold(value)
        )
        _put_zone(out, time_tzinfo(value))
        return True
    if PyDelta_CheckExact(value):
        put_byte(out, TAG_TIMEDELTA)
        _put_delta(out, value)
        return True
    cls = type(value)
    if cls is timezone:
        _put_zone(out, value)
        return True
    if uuid_class is None or decimal_class is None or zoneinfo_class is None:
        _note_loaded_modules()
    if cls is uuid_class:
        _put_uuid(out, value)
        return True
    if cls is decimal_class:
        put_byte(out, TAG_DECIMAL)
        put_name(out, _decimal_text(value))
        return True
    if cls is zoneinfo_class:
        _put_zone(out, value)
        return True
    return False


cdef object _take_zone(Input data, int tag):
    cdef Py_ssize_t start = data.at - 1
    if tag == TAG_UTC:
        return utc
    if tag == TAG_TIMEZONE:
        return timezone(_take_delta(data))
    if tag == TAG_NAMED_TIMEZONE:
        offset = _take_delta(data)
        return timezone(offset, take_name(data, "the name of a time zone"))
    if tag == TAG_ZONEINFO:
        key = take_name(data, "the key of a time zone")
        from zoneinfo import ZoneInfo
        try:
            return ZoneInfo(key)
        except Exception as error:
            data.fail(start, f"the time zone {key[:100]!r} is not found on this machine ({error})")
    data.fail(start, f"no time zone begins with the byte 0x{tag:02x}")


cdef object _take_delta(Input data):
    cdef int64_t days = 0
    cdef uint64_t micros = 0
    cdef Py_ssize_t start = data.at
    take_signed(data, &days)
    take_fixed(data, 5, &micros, "a timedelta")
    if not -999999999 <= days <= 999999999 or micros >= <uint64_t>86400 * 1000000:
        data.fail(start, "a timedelta is out of range")
    return timedelta_new(<int>days, <int>(micros // 1000000), <int>(micros % 1000000))


cdef object _take_date(Input data):
    cdef uint64_t year = 0
    cdef int month, day
    take_fixed(data, 2, &year, "a date")
    month = take_byte(data)
    day = take_byte(data)
    return date_new(<int>year, month, day)


cdef object _take_time(Input data, object date):
    """A time, or with `date` a datetime."""
    cdef uint64_t clock = 0
    cdef int64_t seconds
    cdef int hour, minute, second, microsecond, fold, tag
    take_fixed(data, 5, &clock, "a time")
    fold = <int>(clock & 1)
    clock >>= 1
    seconds = <int64_t>(clock // 1000000)
    microsecond = <int>(clock % 1000000)
    hour, minute, second = <int>(seconds // 3600), <int>(seconds // 60 % 60), <int>(seconds % 60)
    tag = take_byte(data)
    zone = None if tag == TAG_NONE else _take_zone(data, tag)
    if date is None:
        return time_new(hour, minute, second, microsecond, zone, fold)
    return datetime_new(
        date_year(date), date_month(date), date_day(date), hour, minute, second, microsecond, zone, fold
    )


cdef object _take_uuid(Input data):
    cdef const unsigned char *raw = take_raw(data, 16, "a UUID")
    cdef int safety = take_byte(data)
    if uuid_class is None:
        __import__("uuid")
        _note_loaded_modules()
    if safety > 2:
        data.fail(data.at - 1, "a UUID has an unknown mark")
    made = uuid_class.__new__(uuid_class)
    # As its own __setstate__ does: a UUID refuses to be changed.
    set_attribute(made, "int", int.from_bytes(PyBytes_FromStringAndSize(<const char *>raw, 16), "big"))
    set_attribute(made, "is_safe", uuid_safety[safety])
    return made


cdef object _take_decimal(Input data):
    cdef Py_ssize_t start = data.at - 1
    cdef str text = take_name(data, "a Decimal")
    if decimal_class is None:
        __import__("decimal")
        _note_loaded_modules()
    # A context without traps makes NaN of what is no number. What is not written as a Decimal prints itself is refused.
    value = decimal_class(text)
    if _decimal_text(value) != text:
        data.fail(start, f"{text[:100]!r} is not how a Decimal is written")
    return value


cdef object take_leaf(Input data, int tag):
    """The rest of a value that begins with `tag`, one of the tags of this module."""
    if tag == TAG_DATETIME:
        return _take_time(data, _take_date(data))
    if tag == TAG_DATE:
        return _take_date(data)
    if tag == TAG_TIME:
        return _take_time(data, None)
    if tag == TAG_TIMEDELTA:
        return _take_delta(data)
    if tag == TAG_UUID:
        return _take_uuid(data)
    if tag == TAG_DECIMAL:
        return _take_decimal(data)
    return _take_zone(data, tag)
