-- What was changed by hand: rules that were added, and rules of generations that hold no longer.

-- One change each. `seq` grows and is never used again; what replaces an entry is a new one.
CREATE TABLE entry (
    seq INTEGER PRIMARY KEY,
    -- 1: rules of generations with this key, scope, kind and list hold no longer. 0: a rule.
    is_void INTEGER NOT NULL CHECK (is_void IN (0, 1)),
    -- The words of `class.kind` in the shards, and `ip-rewrite`.
    kind TEXT NOT NULL,
    -- The words of `class.scope` in the shards; `address` for an `ip-rewrite`.
    scope TEXT NOT NULL,
    -- A name as in the shards, a pattern, an address or a prefix.
    key TEXT NOT NULL,
    -- The list's name.
    list TEXT NOT NULL,
    -- Where an alias leads; the address that an `ip-rewrite` puts in place.
    target TEXT,
    important INTEGER NOT NULL CHECK (important IN (0, 1)),
    -- As in `class.answer` of the shards.
    answer TEXT,
    alias_labels TEXT NOT NULL,
    -- Unix time in seconds.
    created_s INTEGER NOT NULL,
    -- Unix time in seconds at which it ends by itself.
    expires_s INTEGER,
    -- In the operator's words.
    reason TEXT NOT NULL,
    -- How many rows of `entry_part` it has.
    parts INTEGER NOT NULL,
    -- xxh3-64 of all the others and of its parts, see `sharding/README.md`.
    sum INTEGER NOT NULL
) STRICT;

-- A change that is made again replaces the one before. The key comes first: that is what an entry is looked for by.
CREATE UNIQUE INDEX entry_identity ON entry (key, scope, kind, list, is_void);
CREATE INDEX entry_expiry ON entry (expires_s) WHERE expires_s IS NOT NULL;

-- What few rules have: servers, records, conditions.
CREATE TABLE entry_part (
    entry INTEGER NOT NULL,
    place INTEGER NOT NULL,
    -- `server`, `record`, or one of the words of `class_condition.part` in the shards.
    part TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (entry, place)
) STRICT, WITHOUT ROWID;

-- One row. It is written with every change, so that a row which has got lost, or has come from elsewhere, is noticed.
CREATE TABLE state (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    -- What the next entry's `seq` will be.
    next_seq INTEGER NOT NULL,
    -- Rows of `entry`.
    entries INTEGER NOT NULL,
    -- Their sums, joined by exclusive or.
    entries_sum INTEGER NOT NULL,
    -- xxh3-64 of these three.
    sum INTEGER NOT NULL
) STRICT;
