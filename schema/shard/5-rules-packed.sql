-- The rules that the name hash routes to this shard, packed: SQL sees that they are there, `corewall export` what they say.
-- Each row has the names from `start` up to the `start` of the next; the first row's is empty. `sharding/README.md` has the
-- octets.
CREATE TABLE block (
  id INTEGER PRIMARY KEY,       -- from 1, in the order of the names
  start BLOB NOT NULL,          -- labels reversed, with a zero octet between two
  names BLOB NOT NULL           -- and classes
);

CREATE UNIQUE INDEX block_start ON block (start);

-- The codes that the blocks are written in.
CREATE TABLE block_code (
  id INTEGER PRIMARY KEY,       -- 0
  code BLOB NOT NULL
);
