//! The configuration as a whole: defaults, documentation, and the exact words of each error.

use std::collections::BTreeSet;

use corewall_sharding::rule::Kind;

use super::*;

fn parse_text(text: &str) -> Result<Config, ConfigError> {
    parse(text, Path::new("/etc/cw/corewall.toml"))
}

/// The error of `text` without the file in front of it.
fn error(text: &str) -> String {
    let error = parse_text(text).expect_err(text).to_string();
    error.strip_prefix("/etc/cw/corewall.toml:").unwrap_or_else(|| panic!("no file: {error}")).to_owned()
}

/// The default configuration with its examples switched on.
fn with_examples() -> String {
    DEFAULT_TOML.lines().map(|line| line.strip_prefix("#|").unwrap_or(line)).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_documented_defaults_are_the_defaults() {
    assert_eq!(toml::from_str::<Config>(DEFAULT_TOML).unwrap(), Config::default());
    assert_eq!(toml::from_str::<Config>("").unwrap(), Config::default());
    assert_eq!(parse_text(DEFAULT_TOML).unwrap(), parse_text("").unwrap());
}

#[test]
fn the_documented_examples_are_valid() {
    let config = parse_text(&with_examples()).unwrap();
    assert_eq!(config.policy[0].name, "children");
    assert_eq!(config.list[0].answers[0].rtype, "TXT");
    assert_eq!(config.record[0].ttl_s, 300);
    // What is told as an option's default is what an entry without it has.
    let text = "[[list]]\nname = \"ads\"\npath = \"lists/ads.txt\"\nformat = \"hosts\"\n";
    let bare = &parse_text(text).unwrap().list[0];
    let List { subtree, important, allow_public_suffix, allow_wide, hosts_addresses, kind, .. } = config.list[0];
    let told = (subtree, important, allow_public_suffix, allow_wide, hosts_addresses, kind);
    let List { subtree, important, allow_public_suffix, allow_wide, hosts_addresses, kind, .. } = *bare;
    assert_eq!(told, (subtree, important, allow_public_suffix, allow_wide, hosts_addresses, kind));
    assert_eq!(bare.adblock_modifiers, AdblockModifiers::Adguard);
    assert_eq!(bare.wildcard_action, WildcardAction::Block);
}

/// The keys of a table, as the deserialiser itself tells them when it meets an unknown one.
fn keys_of(table: &str) -> BTreeSet<String> {
    let text = format!("{table}\nno_such_key = 1\n");
    let message = toml::from_str::<Config>(&text).unwrap_err().message().to_owned();
    assert!(message.starts_with("unknown field `no_such_key`"), "{table}: {message}");
    message.split('`').skip(3).step_by(2).map(str::to_owned).collect()
}

#[test]
fn every_option_is_documented() {
    let list = "[[list]]\nname = \"a\"\npath = \"a\"\nformat = \"plain\"";
    for table in [
        "",
        "[upstream]",
        "[upstream.default]",
        "[block]",
        "[alias]",
        "[cache]",
        "[build]",
        "[[policy]]\nname = \"a\"",
        "[[record]]\nname = \"a\"\ntype = \"A\"\ndata = \"1.2.3.4\"",
        list,
        &format!("{list}\n[[list.answers]]\ntype = \"TXT\"\ndata = \"a\""),
    ] {
        let keys = keys_of(table);
        assert!(!keys.is_empty(), "{table}");
        for key in keys {
            let documented = DEFAULT_TOML.lines().any(|line| {
                let line = line.trim_start_matches(['#', '|']);
                line.starts_with(&format!("{key} = "))
                    || line.trim_matches(['[', ']']).split('.').any(|part| part == key) && line.starts_with('[')
            });
            assert!(documented, "`{key}` of `{table}` is not documented");
        }
    }
}

#[test]
fn an_unknown_key_is_told_with_the_nearest_known_one() {
    assert_eq!(error("mmap = true\nchache = 1\n"), "2: unknown key `chache`; did you mean `cache`?");
    assert_eq!(
        error("[cache]\nbytes = 65536\nttl_max = 1\n"),
        "3: cache: unknown key `ttl_max`; did you mean `ttl_s_max`?"
    );
    assert_eq!(
        error("[upstream.defualt]\nservers = []\n"),
        "1: upstream: unknown key `defualt`; did you mean `default`?"
    );
    assert_eq!(error("[alias]\nwhatever = 1\n"), "2: alias: unknown key `whatever`; the keys here are ttl_s");
    assert_eq!(
        error("[alias]\nttl_s = 1\n\n[[list]]\nname = \"b\"\nfromat = \"plain\"\n"),
        "6: list: unknown key `fromat`; did you mean `format`?"
    );
}

#[test]
fn bad_values_are_told_with_line_key_and_remedy() {
    for (text, wanted) in [
        ("cores = \"zero\"", "1: cores: `zero` names no cores; write \"auto\", \"0-7\", \"0,2\" or a list of numbers"),
        ("cores = []", "1: cores: names no cores; name at least one, or write \"auto\""),
        ("cores = \"3-1\"", "1: cores: the range `3-1` runs backwards; write \"1-3\""),
        ("cores = [1, 1]", "1: cores: core 1 is named twice; name each core once"),
        ("cores = \"0-9999\"", "1: cores: core 9999 is out of bounds; use numbers from 0 to 1023"),
        (
            "\n\nlisten = [\"127.0.0.1\"]",
            "3: listen: `127.0.0.1` is no address with a port; write it as 127.0.0.1:5353 or [::1]:5353",
        ),
        ("listen = \"127.0.0.1:0\"", "1: listen: `127.0.0.1:0` has port 0; write the port to listen on, usually 53"),
        ("listen = []", "1: listen: 0 listen addresses; name from 1 to 16"),
        ("listen = [\"[::1]:53\", \"[::1]:53\"]", "1: listen: [::1]:53 is named twice; name each address once"),
        (
            "[upstream.block]\nservers = [\"1.1.1\"]",
            "2: upstream.block.servers: `1.1.1` is no server address; write it as 1.1.1.1, 1.1.1.1:53 or \
             [2606:4700::1111]:53",
        ),
        (
            "[upstream.allow]\nservers = \"0.0.0.0\"",
            "2: upstream.allow.servers: `0.0.0.0` is no address of one server; write the server's own address",
        ),
        ("upstream_timeout_ms = 5", "1: upstream_timeout_ms: 5 is out of bounds; use 10 to 1900 milliseconds"),
        ("[block]\nttl_s = -1", "2: block.ttl_s: -1 is out of bounds; use 0 to 86400 seconds"),
        (
            "[block]\nmode = \"zeros\"",
            "2: block.mode: unknown value `zeros`; use one of zero, sinkhole, nxdomain, nodata, refused, drop, tcponly",
        ),
        ("[block]\nede = 1", "2: block.ede: invalid type: integer `1`; use a boolean"),
        (
            "[cache]\nbytes = \"64 MB\"",
            "2: cache.bytes: `64 MB` is no number of bytes; write it as 67108864, \"64 MiB\" or \"1 GiB\"",
        ),
        ("[cache]\nbytes = 1", "2: cache.bytes: 1 bytes are out of bounds; use 64 KiB to 256 GiB"),
        (
            "[cache]\nttl_s_min = 600\nttl_s_max = 60",
            "3: cache.ttl_s_max: 60 is less than ttl_s_min (600); raise it or lower ttl_s_min",
        ),
        (
            "[cache]\nnegative_ttl_s_min = 30\nnegative_ttl_s_max = 20",
            "3: cache.negative_ttl_s_max: 20 is less than negative_ttl_s_min (30); raise it or lower negative_ttl_s_min",
        ),
        ("[cache]\neviction = \"fifo\"", "2: cache.eviction: unknown value `fifo`; use one of sieve, lru"),
        ("[cache]\nstale_window_s = 0", "2: cache.stale_window_s: 0 is out of bounds; use 1 to 604800 seconds"),
        ("[cache]\nstale_ttl_s = 301", "2: cache.stale_ttl_s: 301 is out of bounds; use 1 to 300 seconds"),
        (
            "[cache]\nstale_client_timeout_ms = 2000",
            "2: cache.stale_client_timeout_ms: 2000 is out of bounds; use 0 to 1900 milliseconds",
        ),
        ("[cache]\nprefetch_percent = 91", "2: cache.prefetch_percent: 91 is out of bounds; use 1 to 90 percent"),
        ("[cache]\nfailure_ttl_s = 0", "2: cache.failure_ttl_s: 0 is out of bounds; use 1 to 300 seconds"),
        ("on_store_error = \"fail\"", "1: on_store_error: unknown value `fail`; use one of servfail, allow, block"),
        (
            "clients_allowed = [\"10.0.0.0/33\"]",
            "1: clients_allowed: `10.0.0.0/33` is no address or prefix; write it as 192.0.2.1, 192.0.2.0/24 or \
             2001:db8::/32",
        ),
        ("[build]\nshards = 0", "2: build.shards: 0 is out of bounds; use 1 to 4096 shards"),
        ("log = \"loud\"", "1: log: unknown value `loud`; use one of error, warn, info, debug, trace"),
        ("store = 7", "1: store: invalid type: integer `7`; use path string"),
    ] {
        assert_eq!(error(text), wanted, "{text}");
    }
}

#[test]
fn what_is_not_toml_is_told_with_its_line() {
    let message = error("mmap = true\nlisten = [\n");
    assert!(
        message.starts_with("2: not TOML: unclosed array") && message.ends_with("; correct the syntax here"),
        "{message}"
    );
    assert!(error("mmap = true\nmmap = true\n").starts_with("2: not TOML: duplicate key"));
}

#[test]
fn records_are_checked_where_they_stand() {
    let record =
        |rtype: &str, data: &str| format!("\n[[record]]\nname = \"a.example\"\ntype = \"{rtype}\"\ndata = '{data}'\n");
    let message = error(&(record("A", "192.0.2.1") + &record("A", "192.0.2.256")));
    assert!(message.starts_with("10: record.data: `A 192.0.2.256` is no record ("), "{message}");
    assert!(message.ends_with("; write type and data as in a zone file"), "{message}");
    assert!(error(&record("WHATEVER", "1")).starts_with("5: record.data: "));
    assert_eq!(
        error("[[record]]\nname = \"a..example\"\ntype = \"A\"\ndata = \"192.0.2.1\"\n"),
        "2: record.name: `a..example` is no domain name (empty label); correct it"
    );
    assert_eq!(error("[[record]]\nname = \"a.example\"\ntype = \"A\"\n"), "1: record: `data` is missing; add it here");
    let config = parse_text(&(record("MX", "10 mail.example.") + &record("TXT", "\"two\" words"))).unwrap();
    let wire: Vec<_> = config.local_records().into_iter().map(|(_, record)| (record.rtype, record.rdata)).collect();
    assert_eq!(wire, [(15, Box::from(*b"\0\x0a\x04mail\x07example\0")), (16, Box::from(*b"\x03two\x05words"))]);
}

#[test]
fn lists_are_checked_where_they_stand() {
    let list =
        |name: &str, more: &str| format!("[[list]]\nname = \"{name}\"\npath = \"a.txt\"\nformat = \"plain\"\n{more}\n");
    for (text, wanted) in [
        (list("a", "") + &list("a", ""), "7: list.name: `a` names two lists; give each its own name"),
        (list(" ", ""), "2: list.name: a list needs a name; give it one"),
        (
            list("a", "block_mode = \"sinkhole\""),
            "5: list.block_mode: \"sinkhole\" needs addresses; add sinkhole = [\"192.0.2.1\"]",
        ),
        (
            list("a", "hosts_addresses = true"),
            "5: list.hosts_addresses: has no meaning for format plain; it is for hosts: remove it",
        ),
        (list("a", "sinkhole = [\"1.2.3\"]"), "5: list.sinkhole: invalid IP address syntax"),
        (
            list("a", "").replace("plain", "pain"),
            "4: list.format: unknown value `pain`; use one of plain, hosts, adblock, dnsmasq, unbound, rpz, regex, \
             dnsmasq-sqlite",
        ),
        ("[[list]]\nname = \"a\"\nformat = \"plain\"\n".to_owned(), "1: list: `path` is missing; add it here"),
    ] {
        let message = error(&text);
        assert!(message.starts_with(wanted), "{message}\nis not\n{wanted}");
    }
    let message = error(&(list("a", "") + "[[list.answers]]\ntype = \"A\"\ndata = \"x\"\n"));
    assert!(message.starts_with("8: list.answers.data: `A x` is no record ("), "{message}");
    let text = "x".repeat(121);
    let message = error(&list("a", &format!("ede_text = \"{text}\"")));
    assert_eq!(message, "5: list.ede_text: the text has 121 bytes; use at most 120");
}

#[test]
fn policies_are_checked_where_they_stand() {
    let policy = |name: &str, more: &str| format!("[[policy]]\nname = \"{name}\"\n{more}\n");
    for (text, wanted) in [
        (
            policy("a", "clients = [\"10.0.0.1\"]\nlists = [\"ads\"]"),
            "4: policy.lists: there is no list `ads`; add it as [[list]]",
        ),
        (policy("a", ""), "2: policy.name: the policy `a` applies to nobody; add clients = [\"192.0.2.0/24\"]"),
        (
            policy("default", "clients = [\"10.0.0.1\"]"),
            "3: policy.clients: the policy `default` is for clients that no other one names; remove its clients",
        ),
        (
            policy("a", "clients = [\"10.0.0.0/8\"]") + &policy("b", "clients = [\"10.1.0.0/8\"]"),
            "6: policy.clients: 10.0.0.0/8 has two policies; name each prefix once",
        ),
        (
            policy("a", "clients = [\"10.0.0.0/8\"]") + &policy("a", "clients = [\"10.1.0.0/16\"]"),
            "5: policy.name: `a` names two policies; give each its own name",
        ),
    ] {
        assert_eq!(error(&text), wanted);
    }
}

#[test]
fn a_file_that_cannot_be_read_is_told_without_a_line() {
    let message = load(Path::new("/no/such/corewall.toml")).unwrap_err().to_string();
    assert!(message.starts_with("/no/such/corewall.toml: cannot read: "), "{message}");
    assert!(message.ends_with("; check the path and that this user may read it"), "{message}");
}

#[test]
fn cores_servers_and_sizes_have_several_spellings() {
    for (text, cores) in
        [("auto", Cores::Auto), ("0-2", Cores::These(vec![0, 1, 2])), ("0, 2,4-5", Cores::These(vec![0, 2, 4, 5]))]
    {
        assert_eq!(parse_text(&format!("cores = \"{text}\"")).unwrap().cores, cores);
    }
    assert_eq!(parse_text("cores = [3, 1]").unwrap().cores, Cores::These(vec![3, 1]));
    for (text, server) in [
        ("1.1.1.1", "1.1.1.1:53"),
        ("1.1.1.1:5353", "1.1.1.1:5353"),
        ("1.1.1.1#5353", "1.1.1.1:5353"),
        ("::1", "[::1]:53"),
        ("[::1]", "[::1]:53"),
        ("[::1]:5353", "[::1]:5353"),
        ("::1#5353", "[::1]:5353"),
        ("[::1]#5353", "[::1]:5353"),
    ] {
        assert_eq!(parse_server(text).unwrap(), server.parse().unwrap(), "{text}");
    }
    for text in
        ["", "1.1.1.1:", "1.1.1.1#", "1.1.1.1:0", "[::1", "example.com", "1.1.1.1:53:53", "ff02::1", "[1.1.1.1]"]
    {
        assert!(parse_server(text).is_err(), "{text}");
    }
    for (text, bytes) in [("65536", 1 << 16), ("\"64 KiB\"", 1 << 16), ("\"2MiB\"", 2 << 20), ("\"1 GiB\"", 1 << 30)] {
        assert_eq!(parse_text(&format!("[cache]\nbytes = {text}")).unwrap().cache.bytes, bytes);
    }
}

#[test]
fn relative_paths_are_relative_to_the_file() {
    let config =
        parse_text("store = \"st\"\n[[list]]\nname = \"a\"\npath = \"l/a.txt\"\nformat = \"plain\"\n").unwrap();
    assert_eq!(config.store, Path::new("/etc/cw/st"));
    assert_eq!(config.list[0].path, Path::new("/etc/cw/l/a.txt"));
    assert_eq!(parse_text("store = \"/st\"").unwrap().store, Path::new("/st"));
}

#[test]
fn lists_become_specs() {
    let text = "[[list]]\nname = \"a\"\npath = \"a\"\nformat = \"adblock\"\nkind = \"allow\"\nimportant = true\n\
                adblock_modifiers = \"strip\"\ncategory = \"filtered\"\nblock_ttl_s = 7\n";
    let spec = &parse_text(text).unwrap().list_specs()[0];
    assert_eq!(spec.list.category, "filtered");
    assert_eq!(spec.list.block_ttl_s, Some(7));
    assert_eq!(spec.options.default_kind, Kind::Allow);
    assert!(spec.options.important && !spec.options.subtree);
    assert_eq!(spec.options.adblock_modifiers, AdblockModifiers::Strip);
}
