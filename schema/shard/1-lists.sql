-- The lists, in the order of the configuration; the same rows in every shard, so that one shard can be read alone.
CREATE TABLE list (
  id INTEGER PRIMARY KEY,       -- from 0; the lower one wins a tie
  name TEXT NOT NULL,
  category TEXT NOT NULL,       -- free text, '' when none
  block_mode TEXT,              -- zero sinkhole nxdomain nodata refused drop tcp-only; NULL: the policy's
  ede_text TEXT,                -- EXTRA-TEXT of RFC 8914; NULL: the list's name
  block_ttl_s INTEGER           -- seconds; NULL: the policy's
);

CREATE TABLE list_sinkhole (
  list INTEGER NOT NULL REFERENCES list,
  place INTEGER NOT NULL,
  address TEXT NOT NULL,
  PRIMARY KEY (list, place)
) WITHOUT ROWID;

CREATE TABLE list_answer (
  list INTEGER NOT NULL REFERENCES list,
  place INTEGER NOT NULL,
  type TEXT NOT NULL,           -- mnemonic, such as TXT
  data TEXT NOT NULL,           -- RDATA in presentation format
  PRIMARY KEY (list, place)
) WITHOUT ROWID;
