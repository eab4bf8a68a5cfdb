-- What both layouts have of the rules. A name is in presentation format, lower case, without the final dot; the root is ''.

-- Where the alias rules lead that the name hash routes to this shard.
CREATE TABLE alias (
  name TEXT NOT NULL,
  class INTEGER NOT NULL REFERENCES class,
  target TEXT NOT NULL,
  PRIMARY KEY (name, class)
) WITHOUT ROWID;

-- Pattern rules are routed by the hash of their text.
CREATE TABLE pattern (
  id INTEGER PRIMARY KEY,       -- dense from 0 over all shards
  regex TEXT NOT NULL,
  class INTEGER NOT NULL REFERENCES class,
  target TEXT                   -- for an alias
);

-- Rules on addresses in upstream answers are routed by the hash of the prefix's text.
CREATE TABLE address (
  net TEXT NOT NULL,            -- an address, or a prefix in CIDR notation
  class INTEGER NOT NULL REFERENCES class,
  target TEXT,                  -- for an alias
  PRIMARY KEY (net, class)
) WITHOUT ROWID;

-- Address rewrites are routed by the hash of their source's text.
CREATE TABLE ip_rewrite (
  source TEXT NOT NULL,         -- an address, or a prefix in CIDR notation
  target TEXT NOT NULL,         -- an address of the same family
  family INTEGER NOT NULL,      -- 4 or 6
  list INTEGER NOT NULL REFERENCES list,
  PRIMARY KEY (source, list)
) WITHOUT ROWID;
