-- The classic tables of dnsmasq-sqlite as views; their union over the shards is the whole. A view gives the rules that its
-- table can say: one with a condition or with records of its own would mean something wider there, so it is left to
-- `every_rule`, and so are forwarding and alias rules for one name alone, for there those tables cover the subtree too.
CREATE VIEW classic_class AS
  SELECT id, kind, scope, alias_labels FROM class
  WHERE (answer IS NULL OR answer <> 'records')
    AND NOT EXISTS (SELECT 1 FROM class_condition WHERE class_condition.class = class.id);

CREATE VIEW block_exact AS
  SELECT rule.name AS Domain FROM rule JOIN classic_class ON classic_class.id = rule.class
  WHERE kind = 'block' AND scope = 'exact';

CREATE VIEW block_wildcard AS
  SELECT CASE scope WHEN 'below' THEN '*.' || rule.name ELSE rule.name END AS Domain
  FROM rule JOIN classic_class ON classic_class.id = rule.class
  WHERE kind = 'block' AND scope IN ('subtree', 'below');

CREATE VIEW block_regex AS
  SELECT regex AS Pattern FROM pattern JOIN classic_class ON classic_class.id = pattern.class
  WHERE kind = 'block';

CREATE VIEW classic_server AS
  SELECT class, CASE WHEN instr(address, ':') THEN '[' || address || ']:' || port ELSE address || '#' || port END AS Server
  FROM class_server;

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

CREATE VIEW domain_alias AS
  SELECT alias.name AS Source_Domain, alias.target AS Target_Domain
  FROM alias JOIN classic_class ON classic_class.id = alias.class
  WHERE scope = 'subtree' AND alias_labels = 'below';

CREATE VIEW ip_rewrite_v4 AS
  SELECT source AS Source_IPv4, target AS Target_IPv4 FROM ip_rewrite WHERE family = 4;

CREATE VIEW ip_rewrite_v6 AS
  SELECT source AS Source_IPv6, target AS Target_IPv6 FROM ip_rewrite WHERE family = 6;

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
