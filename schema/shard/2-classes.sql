-- All that a rule says beside its name, once for all rules that say the same; the same rows in every shard.
CREATE TABLE class (
  id INTEGER PRIMARY KEY,       -- from 0, the most frequent first: SQLite stores 0 and 1 in no byte at all
  kind TEXT NOT NULL,           -- forward-allow forward-block allow alias block
  scope TEXT NOT NULL,          -- exact subtree below pattern address
  important INTEGER NOT NULL,   -- 0 or 1
  list INTEGER NOT NULL REFERENCES list,
  answer TEXT,                  -- a block mode, or 'records' for those in class_record; NULL: the list's
  alias_labels TEXT NOT NULL    -- none below all
);

CREATE TABLE class_server (
  class INTEGER NOT NULL REFERENCES class,
  place INTEGER NOT NULL,
  address TEXT NOT NULL,
  port INTEGER NOT NULL,
  PRIMARY KEY (class, place)
) WITHOUT ROWID;

CREATE TABLE class_record (
  class INTEGER NOT NULL REFERENCES class,
  place INTEGER NOT NULL,
  type INTEGER NOT NULL,        -- RR type number
  ttl_s INTEGER,                -- seconds; NULL: the list's
  rdata BLOB NOT NULL,          -- uncompressed wire format
  PRIMARY KEY (class, place)
) WITHOUT ROWID;

CREATE TABLE class_condition (
  class INTEGER NOT NULL REFERENCES class,
  place INTEGER NOT NULL,
  part TEXT NOT NULL,           -- type type-not name-not client-net client-name client-net-not client-name-not lifts-answers-only
  value TEXT NOT NULL,
  PRIMARY KEY (class, place)
) WITHOUT ROWID;
