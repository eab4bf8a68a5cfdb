//! Databases of dnsmasq-sqlite in each of its generations are imported without loss.

use std::path::PathBuf;

use corewall_sharding::StoreError;
use corewall_sharding::ancestor::{AncestorItem, read_ancestor};
use corewall_sharding::name::Name;
use corewall_sharding::rule::{Kind, Rule, RuleKey};
use rusqlite::Connection;

struct Database {
    _dir: tempfile::TempDir,
    path: PathBuf,
}

fn database(sql: &str) -> Database {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ancestor.db");
    Connection::open(&path).unwrap().execute_batch(sql).unwrap();
    Database { _dir: dir, path }
}

impl Database {
    fn read(&self, wildcard_forward_block: bool) -> Result<Vec<AncestorItem>, StoreError> {
        let mut items = Vec::new();
        read_ancestor(&self.path, 7, wildcard_forward_block, &mut |item| items.push(item))?;
        Ok(items)
    }

    /// Each item in a line of its own, sorted.
    fn lines(&self, wildcard_forward_block: bool) -> Vec<String> {
        let mut lines: Vec<_> = self.read(wildcard_forward_block).unwrap().iter().map(line).collect();
        lines.sort();
        lines
    }
}

fn line(item: &AncestorItem) -> String {
    match item {
        AncestorItem::Rule(Rule { class, key }) => {
            assert_eq!((class.list, class.important, &class.condition), (7, false, &None));
            let of = |target: &Option<Name>| target.map_or(String::new(), |target| format!(" -> {target}"));
            let key = match key {
                RuleKey::Name { name, target } => format!("{name}{}", of(target)),
                RuleKey::Pattern { regex, target } => format!("/{regex}/{}", of(target)),
                RuleKey::Address { net, target } => format!("{net}{}", of(target)),
            };
            let servers: String = class.servers.iter().map(|server| format!(" @{server}")).collect();
            format!("{:?} {:?} {key}{servers}", class.kind, class.scope)
        }
        AncestorItem::Rewrite(rewrite) => format!("Rewrite {} -> {}", rewrite.from, rewrite.to),
        AncestorItem::Refused { place, text, reason } => format!("refused {place} `{text}`: {reason}"),
    }
}

const FLAT: &str = r"
    CREATE TABLE block_exact (Domain TEXT PRIMARY KEY) WITHOUT ROWID;
    INSERT INTO block_exact VALUES ('Ads.Example.COM'), ('trailing.example.'), ('bücher.example');
    CREATE TABLE block_wildcard (Domain TEXT PRIMARY KEY) WITHOUT ROWID;
    INSERT INTO block_wildcard VALUES ('Tree.example'), ('*.star.example');
    CREATE TABLE block_regex (Pattern TEXT PRIMARY KEY) WITHOUT ROWID;
    INSERT INTO block_regex VALUES ('^Ad[0-9]+\.(?!ok)'), (' spaced ');
    CREATE TABLE fqdn_dns_allow (Domain TEXT PRIMARY KEY, Server TEXT) WITHOUT ROWID;
    INSERT INTO fqdn_dns_allow VALUES ('Allowed.example', '1.1.1.1#5353'), ('*.group.example', NULL);
    CREATE TABLE fqdn_dns_block (Domain TEXT PRIMARY KEY, Server TEXT) WITHOUT ROWID;
    INSERT INTO fqdn_dns_block VALUES ('blocker.example', '[2001:db8::1]:53'), ('two.example', '1.1.1.1,9.9.9.9#54');
    CREATE TABLE domain_alias (Source_Domain TEXT PRIMARY KEY, Target_Domain TEXT NOT NULL) WITHOUT ROWID;
    INSERT INTO domain_alias VALUES ('From.example', 'To.example');
    CREATE TABLE ip_rewrite_v4 (Source_IPv4 TEXT PRIMARY KEY, Target_IPv4 TEXT NOT NULL) WITHOUT ROWID;
    INSERT INTO ip_rewrite_v4 VALUES ('10.0.0.1', '192.0.2.1'), ('10.1.2.3/8', '192.0.2.2');
    CREATE TABLE ip_rewrite_v6 (Source_IPv6 TEXT PRIMARY KEY, Target_IPv6 TEXT NOT NULL) WITHOUT ROWID;
    INSERT INTO ip_rewrite_v6 VALUES ('2001:DB8::1', '::1');
";

fn flat_lines(wildcard: &str) -> Vec<String> {
    let mut lines = vec![
        "Block Exact ads.example.com".to_owned(),
        "Block Exact trailing.example".to_owned(),
        "Block Exact xn--bcher-kva.example".to_owned(),
        format!("{wildcard} Subtree tree.example"),
        format!("{wildcard} Subtree star.example"),
        r"Block Pattern /^Ad[0-9]+\.(?!ok)/".to_owned(),
        "Block Pattern / spaced /".to_owned(),
        "ForwardAllow Subtree allowed.example @1.1.1.1:5353".to_owned(),
        "ForwardAllow Subtree group.example".to_owned(),
        "ForwardBlock Subtree blocker.example @[2001:db8::1]:53".to_owned(),
        "ForwardBlock Subtree two.example @1.1.1.1:53 @9.9.9.9:54".to_owned(),
        "Alias Subtree from.example -> to.example".to_owned(),
        "Rewrite 10.0.0.1/32 -> 192.0.2.1".to_owned(),
        "Rewrite 10.0.0.0/8 -> 192.0.2.2".to_owned(),
        "Rewrite 2001:db8::1/128 -> ::1".to_owned(),
    ];
    lines.sort();
    lines
}

#[test]
fn all_eight_flat_tables_are_read() {
    assert_eq!(database(FLAT).lines(false), flat_lines("Block"));
}

#[test]
fn wildcards_are_forwarded_to_the_blocker_when_asked_for() {
    assert_eq!(database(FLAT).lines(true), flat_lines("ForwardBlock"));
    let items = database(FLAT).read(true).unwrap();
    let is_exact_block =
        |item: &AncestorItem| matches!(item, AncestorItem::Rule(rule) if rule.class.kind == Kind::Block);
    assert_eq!(items.iter().filter(|item| is_exact_block(item)).count(), 5, "exact names and patterns stay blocked");
}

#[test]
fn the_normalised_tables_give_the_same_rules_and_their_views_do_not_double_them() {
    let normalised = r"
        CREATE TABLE domains (domain_id INTEGER PRIMARY KEY AUTOINCREMENT, domain TEXT NOT NULL UNIQUE COLLATE NOCASE,
            created_at INTEGER, last_accessed INTEGER, access_count INTEGER DEFAULT 0);
        CREATE TABLE records (record_id INTEGER PRIMARY KEY AUTOINCREMENT, domain_id INTEGER NOT NULL,
            record_type TEXT NOT NULL, target_value TEXT, priority INTEGER DEFAULT 0);
        CREATE TEMP TABLE given (domain TEXT, record_type TEXT, target_value TEXT);
        INSERT INTO given VALUES
            ('Ads.Example.COM', 'block_exact', NULL), ('trailing.example.', 'block_exact', ''),
            ('bücher.example', 'block_exact', NULL), ('Tree.example', 'block_wildcard', NULL),
            ('*.star.example', 'block_wildcard', NULL), ('^Ad[0-9]+\.(?!ok)', 'block_regex', NULL),
            (' spaced ', 'BLOCK_REGEX', NULL), ('Allowed.example', 'dns_allow', '1.1.1.1#5353'),
            ('*.group.example', 'dns_allow', NULL), ('blocker.example', 'dns_block', '[2001:db8::1]:53'),
            ('two.example', 'dns_block', '1.1.1.1,9.9.9.9#54'), ('From.example', 'domain_alias', 'To.example'),
            ('10.0.0.1', 'ip_rewrite_v4', '192.0.2.1'), ('10.1.2.3/8', 'ip_rewrite_v4', '192.0.2.2'),
            ('2001:DB8::1', 'ip_rewrite_v6', '::1');
        INSERT INTO domains (domain) SELECT domain FROM given;
        INSERT INTO records (domain_id, record_type, target_value)
            SELECT domain_id, record_type, target_value FROM given JOIN domains USING (domain);
        CREATE VIEW block_exact AS
            SELECT domain AS Domain FROM records JOIN domains USING (domain_id) WHERE record_type = 'block_exact';
    ";
    assert_eq!(database(normalised).lines(false), flat_lines("Block"));
}

#[test]
fn the_higher_priority_of_two_normalised_aliases_comes_first() {
    let sql = "
        CREATE TABLE domains (domain_id INTEGER PRIMARY KEY, domain TEXT);
        CREATE TABLE records (record_id INTEGER PRIMARY KEY, domain_id, record_type, target_value, priority);
        INSERT INTO domains VALUES (1, 'a.example');
        INSERT INTO records VALUES (1, 1, 'domain_alias', 'low.example', 0), (2, 1, 'domain_alias', 'high.example', 9);
    ";
    let items = database(sql).read(false).unwrap();
    assert_eq!(line(&items[0]), "Alias Subtree a.example -> high.example");
    assert_eq!(line(&items[1]), "Alias Subtree a.example -> low.example");
}

#[test]
fn normalised_tables_without_optional_columns_and_with_orphans_are_read_row_by_row() {
    let sql = "
        CREATE TABLE domains (domain_id INTEGER PRIMARY KEY, domain TEXT);
        CREATE TABLE records (domain_id, record_type);
        INSERT INTO domains VALUES (1, 'a.example'), (2, 'b.example');
        INSERT INTO records VALUES (1, 'block_exact'), (2, 'no_such_type'), (3, 'block_exact');
    ";
    assert_eq!(
        database(sql).lines(false),
        [
            "Block Exact a.example",
            "refused records:2 `b.example`: unknown record type `no_such_type`",
            "refused records:3 ``: empty name",
        ]
    );
}

#[test]
fn the_three_tables_of_the_minimal_generation_are_read() {
    let sql = "
        CREATE TABLE block_hosts (Domain TEXT PRIMARY KEY) WITHOUT ROWID;
        INSERT INTO block_hosts VALUES ('Host.example');
        CREATE TABLE block_wildcard (Domain TEXT);
        INSERT INTO block_wildcard VALUES ('tree.example');
        CREATE TABLE block_ips (Source_IP TEXT, Target_IP TEXT);
        INSERT INTO block_ips VALUES ('192.168.0.0/16', '10.0.0.1'), ('2001:db8::/32', '::'), ('192.168.1.1', '10.0.0.2');
    ";
    assert_eq!(
        database(sql).lines(false),
        [
            "Block Exact host.example",
            "Block Subtree tree.example",
            "Rewrite 192.168.0.0/16 -> 10.0.0.1",
            "Rewrite 192.168.1.1/32 -> 10.0.0.2",
            "Rewrite 2001:db8::/32 -> ::",
        ]
    );
}

#[test]
fn missing_tables_and_columns_and_odd_spellings_of_them_are_borne() {
    let sql = "
        CREATE TABLE FQDN_DNS_Allow (domain TEXT);
        INSERT INTO FQDN_DNS_Allow VALUES ('a.example');
        CREATE TABLE domain_alias (Source_Domain TEXT);
        INSERT INTO domain_alias VALUES ('b.example');
        CREATE TABLE block_regex (Expression TEXT);
        CREATE TABLE whitelist (Domain TEXT);
    ";
    assert_eq!(
        database(sql).lines(false),
        [
            "ForwardAllow Subtree a.example",
            "refused block_regex ``: the table has no column `Pattern`",
            "refused domain_alias:1 `b.example`: target: empty name",
            "refused whitelist ``: not a table of rules that is known; left out",
        ]
    );
}

#[test]
fn a_row_that_cannot_be_read_is_refused_with_its_place_and_reason() {
    let sql = "
        CREATE TABLE block_exact (Domain TEXT);
        INSERT INTO block_exact (rowid, Domain) VALUES
            (1, 'a..b'), (2, ''), (3, NULL), (40, x'ff'), (41, '*.star.example'), (42, 'with space.example'), (43, 'good.example');
        CREATE TABLE block_regex (Pattern TEXT);
        INSERT INTO block_regex VALUES ('');
        CREATE TABLE fqdn_dns_allow (Domain TEXT, Server TEXT);
        INSERT INTO fqdn_dns_allow VALUES ('a.example', 'dns.example');
        CREATE TABLE ip_rewrite_v4 (Source_IPv4 TEXT, Target_IPv4 TEXT);
        INSERT INTO ip_rewrite_v4 VALUES ('10.0.0.1', '::1'), ('10.0.0.0/33', '10.0.0.1'), ('10.0.0.1', 'x');
    ";
    assert_eq!(
        database(sql).lines(false),
        [
            "Block Exact good.example",
            "refused block_exact:1 `a..b`: empty label",
            "refused block_exact:2 ``: empty name",
            "refused block_exact:3 ``: empty name",
            "refused block_exact:40 ``: a blob where text belongs",
            "refused block_exact:41 `*.star.example`: `*.` in a table of exact names, where it never matched",
            "refused block_exact:42 `with space.example`: character that a domain name cannot hold",
            "refused block_regex:1 ``: an empty pattern would match every name",
            "refused fqdn_dns_allow:1 `a.example dns.example`: `dns.example` is not a server's address",
            "refused ip_rewrite_v4:1 `10.0.0.1 ::1`: source and target are of different families",
            "refused ip_rewrite_v4:2 `10.0.0.0/33 10.0.0.1`: the source is not an address or prefix",
            "refused ip_rewrite_v4:3 `10.0.0.1 x`: the target is not an address",
        ]
    );
}

#[test]
fn a_file_that_is_no_such_database_is_an_error() {
    assert!(matches!(database("CREATE TABLE t (x)").read(false), Err(StoreError::NotAncestor { .. })));
    let text = database("");
    std::fs::write(&text.path, "a plain list\n".repeat(100)).unwrap();
    assert!(matches!(text.read(false), Err(StoreError::Sqlite { .. })));
    std::fs::remove_file(&text.path).unwrap();
    assert!(matches!(text.read(false), Err(StoreError::Sqlite { .. })));
}
