-- The rules that the name hash routes to this shard. A name is in presentation format, lower case, without the final dot;
-- the root is ''.
CREATE TABLE rule (
  name TEXT NOT NULL,
  class INTEGER NOT NULL REFERENCES class,
  PRIMARY KEY (name, class)
) WITHOUT ROWID;

-- The classic tables of rules by name as views, see `4-views.sql`.
CREATE VIEW block_exact AS
  SELECT rule.name AS Domain FROM rule JOIN classic_class ON classic_class.id = rule.class
  WHERE kind = 'block' AND scope = 'exact';

CREATE VIEW block_wildcard AS
  SELECT CASE scope WHEN 'below' THEN '*.' || rule.name ELSE rule.name END AS Domain
  FROM rule JOIN classic_class ON classic_class.id = rule.class
  WHERE kind = 'block' AND scope IN ('subtree', 'below');

CREATE VIEW fqdn_dns_allow AS
  SELECT CASE scope WHEN 'below' THEN '*.' || rule.name ELSE rule.name END AS Domain, Server
  FROM rule JOIN classic_class ON classic_class.id = rule.class
    LEFT JOIN classic_server ON classic_server.class = rule.class
  WHERE kind = 'forward-allow' AND scope IN ('subtree', 'below');

CREATE VIEW fqdn_dns_block AS
  SELECT CASE scope WHEN 'below' THEN '*.' || rule.name ELSE rule.name END AS Domain, Server
  FROM rule JOIN classic_class ON classic_class.id = rule.class
    LEFT JOIN classic_server ON classic_server.class = rule.class
  WHERE kind = 'forward-block' AND scope IN ('subtree', 'below');

-- Not in dnsmasq-sqlite: names that no list blocks.
CREATE VIEW allow AS
  SELECT rule.name AS Domain, scope AS Scope FROM rule JOIN classic_class ON classic_class.id = rule.class
  WHERE kind = 'allow';

-- Every rule with all that its class says in words.
CREATE VIEW every_rule AS
  SELECT rule.name AS Name, kind AS Kind, scope AS Scope, important AS Important, list.name AS List,
    alias.target AS Target, class.id AS Class
  FROM rule JOIN class ON class.id = rule.class JOIN list ON list.id = class.list
    LEFT JOIN alias ON alias.name = rule.name AND alias.class = rule.class
  UNION ALL
  SELECT regex, kind, scope, important, list.name, target, class.id
  FROM pattern JOIN class ON class.id = pattern.class JOIN list ON list.id = class.list
  UNION ALL
  SELECT net, kind, scope, important, list.name, target, class.id
  FROM address JOIN class ON class.id = address.class JOIN list ON list.id = class.list;
