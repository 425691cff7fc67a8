# Part of state.pyx: a BlazenState, each field of which is an entry of its own beside the entry of the whole.

cdef enum:
    # Of a key below which a state is stored. The walks below recurse, and a small thread has a small stack.
    MAX_PARTS = 100


cdef int change_one(StateStore store, object key, object value, object ctx) except -1:
    """Store one value or Entry where a BlazenState is in the store, or comes into it."""
    cdef Change change = Change.__new__(Change)
    change._store = store
    change._ctx = ctx
    change.add(key, value)
    change.finish()
    return 0


cdef object read_entry(str key, Entry entry, dict values, object ctx):
    """What `get` gives for `entry`, which `values` has under `key`. May run code of users."""
    cdef dict below
    if entry.kind == AS_VALUE:
        return entry.value.value
    if entry.kind == ELSEWHERE:
        return entry.layout.load(entry.field, key, ctx)
    # Noted in one go: what it takes to make one field may change the store.
    below = {}
    note_fields(key, entry, values, below)
    return build_state(key, entry, below, ctx)


cdef object build_state(str key, Entry entry, dict below, object ctx):
    cdef dict found = {}
    cdef str place
    for name in entry.names:
        place = f"{key}.{name}"
        if place not in below:
            continue                            # deleted, or never set
        inner = below[place]
        if type(inner) is not Entry:
            found[name] = inner
        elif (<Entry>inner).kind == STATE:
            found[name] = build_state(place, <Entry>inner, below, ctx)
        else:
            found[name] = read_entry(place, <Entry>inner, below, ctx)
    return entry.layout.build(key, found)


cdef int note_fields(str key, Entry entry, dict values, dict below) except -1:
    """Put the entries of all fields of a state into `below`, by key, and those of the states among them."""
    cdef str place
    for name in entry.names:
        place = f"{key}.{name}"
        if place in values:
            inner = values[place]
            below[place] = inner
            if type(inner) is Entry and (<Entry>inner).kind == STATE:
                note_fields(place, <Entry>inner, values, below)
    return 0


cdef bint remove_with_fields(StateStore store, str key, object expected) except -1:
    """Remove `key` with the fields below it; False if it is not there, or holds another entry than the expected."""
    cdef dict gone = {}
    entry = store._values.get(key, MISSING)
    if entry is MISSING or (expected is not MISSING and entry is not expected):
        return False
    gone[key] = entry                           # held until the store is consistent: a `__del__` may look into it
    if type(entry) is Entry and (<Entry>entry).kind == STATE:
        note_fields(key, <Entry>entry, store._values, gone)
    for place in gone:
        del store._values[place]
        store._states.pop(place, None)
    return True


@cython.final
cdef class Change:
    """What one call is going to write, all of it or nothing.

    In two parts. `add` looks at the values, which may run code of users, and meanwhile other threads may change the
    store. `finish` looks at the store as it is by then, and writes without running anything in between.
    """

    cdef int add(self, object key, object value) except -1:
        """Note that `key` becomes `value`, which may be an Entry of another store; ValidationError if it cannot."""
        cdef dict entries = {}
        self._seen = {}
        if self._writes is None:
            self._writes = []
            self._saves = []
        if not self._add_field(key, value, entries):
            if type(value) is not Entry:
                self._gather(key, value, entries)
            else:
                if (<Entry>value).kind == AS_VALUE:
                    self._store._check_value(key, (<Entry>value).value, "cannot store")
                entries[key] = value
        self._writes.append((key, entries))
        if self._values is not None:
            write(key, entries, self._values, self._states, [])
        return 0

    cdef bint _add_field(self, str key, object value, dict entries) except -1:
        """Note a value for a field that is transient or has a field store; False if `key` is none such."""
        cdef Entry owner = self._owner(key)
        if owner is None:
            return False
        field = key.rpartition(".")[2]
        if field in owner.layout.transient:
            problem = f"{field!r} is a transient field of {type_name(owner.layout.cls)}, and those are never stored"
        elif field not in owner.layout.store_by:
            return False
        elif type(value) is not Entry:
            self._note_save(owner.layout, field, key, value, entries)
            return True
        elif (<Entry>value).kind == ELSEWHERE:
            entries[key] = value
            return True
        else:
            problem = (
                f"the field {field!r} of {type_name(owner.layout.cls)} has a field store, which takes the value "
                "itself; use set"
            )
        from blazen.errors import ValidationError
        raise ValidationError(f"cannot store {shown(key)}: {problem}")

    cdef Entry _owner(self, str key):
        """The state that `key` is a field of, as it will be after what has been noted so far."""
        cdef str above, field
        if "." not in key:
            return None
        above, _, field = key.rpartition(".")
        entry = (self._store._values if self._values is None else self._values).get(above)
        if type(entry) is not Entry or (<Entry>entry).kind != STATE:
            return None
        if field in (<Entry>entry).names or field in (<Entry>entry).layout.transient:
            return <Entry>entry
        return None

    cdef int _gather(self, str key, object value, dict entries) except -1:
        if is_state(value):
            return self._gather_state(key, value, entries)
        if not is_storable_leaf(value):
            self._store._check(key, value, "cannot store")
        entries[key] = value
        return 0

    cdef int _gather_state(self, str key, object state, dict entries) except -1:
        cdef Entry entry
        cdef object address = PyLong_FromVoidPtr(<void *>state)
        self._refuse_repeated(key, state, address)
        self._seen[address] = (state, key)
        entry = Entry.__new__(Entry)
        entry.kind = STATE
        entry.layout = layout_of(type(state))
        entry.names = entry.layout.names_of(state)
        entries[key] = entry
        for name in entry.names:
            if type(name) is not str or not name.isidentifier():
                from blazen.errors import ValidationError
                raise ValidationError(
                    f"cannot store {shown(key)}: a field of a state is named by an identifier, which "
                    f"{shown(name)} of this {type_name(type(state))} is not"
                )
            try:
                value = getattr(state, name)
            except AttributeError:
                continue                        # never set, and comes back so
            if name in entry.layout.store_by:
                self._note_save(entry.layout, name, f"{key}.{name}", value, entries)
            else:
                self._gather(f"{key}.{name}", value, entries)
        return 0

    def _refuse_repeated(self, str key, object state, object address):
        earlier = self._seen.get(address)
        if earlier is None and key.count(".") < MAX_PARTS:
            return
        from blazen.errors import ValidationError
        name = type_name(type(state))
        if earlier is None:
            raise ValidationError(
                f"cannot store {shortened(shown(key))}: states nested too deep, a key of more than {MAX_PARTS} parts"
            )
        if key.startswith(earlier[1] + "."):
            raise ValidationError(
                f"cannot store {shown(key)}: this {name} is the one under {shown(earlier[1])}: it refers to itself"
            )
        raise ValidationError(
            f"cannot store {shown(key)}: this {name} also goes to {shown(earlier[1])}, and would come back as two; "
            "give it a key of its own, or put it into a list, where a state is one value"
        )

    def _note_save(self, object layout, str field, str key, object value, dict entries):
        cdef Entry entry = Entry.__new__(Entry)
        entry.kind = ELSEWHERE
        entry.layout = layout
        entry.field = field
        entries[key] = entry
        self._saves.append((layout, field, key, value))

    cdef int finish(self) except -1:
        """Write what was noted, or raise ValidationError or WorkflowError and change nothing."""
        if self._writes is None:
            return 0
        if self._saves or self._values is not None:
            # What is refused is refused before a field store writes anything, or the first of several is written.
            self._apply(self._store._values.copy(), self._store._states.copy())
        for layout, field, key, value in self._saves:
            layout.save(field, key, value, self._ctx)
        self._apply(self._store._values, self._store._states)
        return 0

    cdef int _apply(self, dict values, dict states) except -1:
        cdef list replaced = []                 # held until all is written: a `__del__` may look into the store
        for key, entries in self._writes:
            write(key, entries, values, states, replaced)
        return 0


cdef int write(str key, dict entries, dict values, dict states, list replaced) except -1:
    """Put `entries`, which are `key` and what is below it, in the place of what is there; or raise, and change nothing.

    Runs no code of users as long as the caller keeps `replaced`.
    """
    cdef dict gone = {}
    before = values.get(key)
    if type(before) is Entry and (<Entry>before).kind == STATE:
        note_fields(key, <Entry>before, values, gone)
    refuse_taken(key, entries, values, gone)
    for place in gone:
        if place not in entries:
            replaced.append(values.pop(place))
            states.pop(place, None)
    for place, entry in entries.items():
        replaced.append(values.get(place))
        PyDict_SetItem(values, place, entry)
        if type(entry) is Entry and (<Entry>entry).kind == STATE:
            PyDict_SetItem(states, place, None)
        else:
            states.pop(place, None)
    return 0


cdef int refuse_taken(str key, dict entries, dict values, dict gone) except -1:
    """Refuse to take over keys that somebody else has set."""
    cdef str place, field
    for above, entry in entries.items():
        if type(entry) is not Entry or (<Entry>entry).kind != STATE:
            continue
        for field in (*(<Entry>entry).names, *(<Entry>entry).layout.transient):
            place = f"{above}.{field}"
            if place in values and place not in gone:
                from blazen.errors import ValidationError
                raise ValidationError(
                    f"cannot store {shown(key)}: the key {shown(place)} of its field {field!r} holds something else; "
                    "delete that key first, or choose another one"
                )
    return 0
