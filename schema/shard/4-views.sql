-- The classic tables of dnsmasq-sqlite as views; their union over the shards is the whole. A view gives the rules that its
-- table can say: one with a condition or with records of its own would mean something wider there, so it is left to
-- `every_rule`, and so are forwarding and alias rules for one name alone, for there those tables cover the subtree too.
CREATE VIEW classic_class AS
  SELECT id, kind, scope, alias_labels FROM class
  WHERE (answer IS NULL OR answer <> 'records')
    AND NOT EXISTS (SELECT 1 FROM class_condition WHERE class_condition.class = class.id);

CREATE VIEW block_regex AS
  SELECT regex AS Pattern FROM pattern JOIN classic_class ON classic_class.id = pattern.class
  WHERE kind = 'block';

CREATE VIEW classic_server AS
  SELECT class, CASE WHEN instr(address, ':') THEN '[' || address || ']:' || port ELSE address || '#' || port END AS Server
  FROM class_server;

CREATE VIEW domain_alias AS
  SELECT alias.name AS Source_Domain, alias.target AS Target_Domain
  FROM alias JOIN classic_class ON classic_class.id = alias.class
  WHERE scope = 'subtree' AND alias_labels = 'below';

CREATE VIEW ip_rewrite_v4 AS
  SELECT source AS Source_IPv4, target AS Target_IPv4 FROM ip_rewrite WHERE family = 4;

CREATE VIEW ip_rewrite_v6 AS
  SELECT source AS Source_IPv6, target AS Target_IPv6 FROM ip_rewrite WHERE family = 6;
