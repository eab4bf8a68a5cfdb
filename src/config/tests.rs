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
        "[upstream.default]",
        "[[forward]]\nzone = \"a\"",
        "[block]",
        "[alias]",
        "[cache]",
        "[tcp]",
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
fn the_control_socket_is_beside_the_configuration_where_it_says_or_nowhere() {
    let path = |text: &str| parse_text(text).unwrap().control_socket;
    assert_eq!(path(""), Some(PathBuf::from("/run/corewall/control.sock")));
    assert_eq!(path("control_socket = \"run/c.sock\""), Some(PathBuf::from("/etc/cw/run/c.sock")));
    assert_eq!(path("control_socket = \"\""), None);
    assert_eq!(error("control_socket = 7"), "1: control_socket: invalid type: integer `7`; use path string");
}

#[test]
fn an_unknown_key_is_told_with_the_nearest_known_one() {
    assert_eq!(error("mmap = true\nchache = 1\n"), "2: unknown key `chache`; did you mean `cache`?");
    assert_eq!(
        error("[cache]\nbytes = 65536\nttl_max = 1\n"),
        "3: cache: unknown key `ttl_max`; did you mean `ttl_s_max`?"
    );
    assert_eq!(
        error("[upstream.default]\nserver = []\n"),
        "2: upstream.default: unknown key `server`; did you mean `servers`?"
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
        ("smt = \"off\"", "1: smt: unknown value `off`; use one of use, skip"),
        (
            "reader_cores = \"none\"",
            "1: reader_cores: `none` names no cores; write \"auto\", \"0-7\", \"0,2\" or a list of numbers",
        ),
        ("control_cores = [2, 2]", "1: control_cores: core 2 is named twice; name each core once"),
        ("steering = \"rss\"", "1: steering: unknown value `rss`; use one of auto, cpu, flow, name"),
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
        ("[cache]\nbytes = 1", "2: cache.bytes: 1 bytes are out of bounds; use 64 KiB to 256 GiB, or 0 for no cache"),
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
        (
            "filter_placement = \"numa\"",
            "1: filter_placement: unknown value `numa`; use one of mapped, shared, node, worker",
        ),
        ("on_store_error = \"fail\"", "1: on_store_error: unknown value `fail`; use one of servfail, allow, block"),
        (
            "clients_allowed = [\"10.0.0.0/33\"]",
            "1: clients_allowed: `10.0.0.0/33` is no address or prefix; write it as 192.0.2.1, 192.0.2.0/24 or \
             2001:db8::/32",
        ),
        ("[tcp]\nconnections = 0", "2: tcp.connections: 0 is out of bounds; use 1 to 65536 connections"),
        ("[tcp]\nidle_ms = 999", "2: tcp.idle_ms: 999 is out of bounds; use 1000 to 3600000 milliseconds"),
        ("[tcp]\npipeline = 2049", "2: tcp.pipeline: 2049 is out of bounds; use 1 to 2048 queries"),
        ("[tcp]\nlifetime_ms = 0", "2: tcp.lifetime_ms: 0 is out of bounds; use 1000 to 86400000 milliseconds"),
        ("[build]\nshards = 0", "2: build.shards: 0 is out of bounds; use 1 to 4096 shards, or \"auto\""),
        ("[build]\nshards = \"many\"", "2: build.shards: `many` is no number; write a number, or \"auto\""),
        ("[build]\n\nthreads = 257", "3: build.threads: 257 is out of bounds; use 1 to 256 threads, or \"auto\""),
        ("[build]\nplaces = \"yes\"", "2: build.places: invalid value: string \"yes\"; use \"auto\", true or false"),
        (
            "[build]\nlayout = \"packed\"\nplaces = true",
            "3: build.places: a store of the layout \"packed\" has no places; use \"auto\", or the layout \"sql\"",
        ),
        ("store_in_memory = \"yes\"", "1: store_in_memory: unknown value `yes`; use one of auto, off, always"),
        ("[build]\nfilter_bits = 12", "2: build.filter_bits: 12 bits are not to be had; use 8 or 16"),
        ("[build]\nlayout = \"zip\"", "2: build.layout: unknown value `zip`; use one of sql, packed"),
        ("[build]\nmemory = \"63 MiB\"", "2: build.memory: 66060288 bytes are out of bounds; use 64 MiB to 16 TiB"),
        (
            "[build]\nmemory = \"3 GB\"",
            "2: build.memory: `3 GB` is no number of bytes; write it as 67108864, \"64 MiB\" or \"1 GiB\"",
        ),
        (
            "[build]\nmemory = true",
            "2: build.memory: invalid type: boolean `true`; use \"auto\" or a number of bytes, or text such as \"3 GiB\"",
        ),
        ("log = \"loud\"", "1: log: unknown value `loud`; use one of error, warn, info, debug, trace"),
        ("hosts_ttl_s = 86401", "1: hosts_ttl_s: 86401 is out of bounds; use 0 to 86400 seconds"),
        ("hosts_files = 1", "1: hosts_files: invalid type: integer `1`; use a text or a list of texts"),
        (
            "rebinding_exceptions = [\"corp.example\", \"a..b\"]",
            "1: rebinding_exceptions: `a..b` is no domain name (empty label); correct it",
        ),
        ("rebinding_protection = \"yes\"", "1: rebinding_protection: invalid type: string \"yes\"; use a boolean"),
        (
            "[upstream.default]\nprivate_answers = 1",
            "2: upstream.default.private_answers: invalid type: integer `1`; use a boolean",
        ),
        (
            "cookie_secret = \"e5e973e5a6b2a43f48e7dc849e37bfc\"",
            "1: cookie_secret: is no secret of 32 hexadecimal digits; make one with `openssl rand -hex 16`",
        ),
        (
            "cookie_secret = \"+5e973e5a6b2a43f48e7dc849e37bfcf\"",
            "1: cookie_secret: is no secret of 32 hexadecimal digits; make one with `openssl rand -hex 16`",
        ),
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
    let wire: Vec<_> =
        config.local_records(&Hosts::default()).into_iter().map(|(_, record)| (record.rtype, record.rdata)).collect();
    assert_eq!(wire, [(15, Box::from(*b"\0\x0a\x04mail\x07example\0")), (16, Box::from(*b"\x03two\x05words"))]);
}

#[test]
fn a_cname_stands_alone_and_types_of_questions_are_no_records() {
    let record = |name: &str, rtype: &str, data: &str| {
        format!("\n[[record]]\nname = \"{name}\"\ntype = \"{rtype}\"\ndata = '{data}'\n")
    };
    let alias = record("a.example", "CNAME", "b.example.");
    for (text, line) in [
        (alias.clone() + &record("a.example", "A", "192.0.2.1"), 9),
        (record("a.example", "TXT", "x") + &alias, 9),
        (alias.clone() + &record("A.example", "CNAME", "c.example."), 9),
    ] {
        let wanted = "record.type: `a.example` has a CNAME and other records; a CNAME stands alone: remove one of them";
        assert_eq!(error(&text), format!("{line}: {wanted}"));
    }
    assert!(parse_text(&(alias + &record("b.example", "A", "192.0.2.1"))).is_ok());
    for rtype in ["TYPE255", "TYPE41", "TYPE252"] {
        let wanted = format!("4: record.type: `{rtype}` is a type of questions, not of records; choose another");
        assert_eq!(error(&record("a.example", rtype, "\\# 0")), wanted);
    }
}

#[test]
fn what_a_server_tells_of_itself_fits_one_string() {
    let text = "x".repeat(256);
    assert_eq!(
        error(&format!("chaos_version = \"{text}\"")),
        "1: chaos_version: the text has 256 bytes; use at most 255"
    );
    assert!(parse_text(&format!("chaos_id = \"{}\"", &text[1..])).is_ok());
}

/// Local records as `name type data`, of a configuration and a hosts file.
fn local_records(text: &str, hosts: &str) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("hosts"), hosts).unwrap();
    let config = parse(&format!("hosts_files = \"hosts\"\n{text}"), &folder.path().join("corewall.toml")).unwrap();
    let records = config.local_records(&Hosts::read(&config.hosts_files).unwrap());
    let shown = records.into_iter().map(|(name, record)| {
        let data = match (record.rtype, &*record.rdata) {
            (1, &[a, b, c, d]) => format!("A {a}.{b}.{c}.{d}"),
            (12, target) => format!("PTR {}", corewall_sharding::name::Name::from_wire(target).unwrap()),
            (rtype, data) => format!("{rtype} {data:?}"),
        };
        format!("{name} {data}")
    });
    shown.collect()
}

#[test]
fn each_address_has_a_reverse_record_to_its_first_name_unless_there_is_one() {
    let record = |name: &str, rtype: &str, data: &str| {
        format!("[[record]]\nname = \"{name}\"\ntype = \"{rtype}\"\ndata = '{data}'\n")
    };
    let records = [
        record("a.lan", "A", "10.0.0.1"),
        record("b.lan", "A", "10.0.0.1"),
        record("c.lan", "A", "10.0.0.2"),
        record("2.0.0.10.in-addr.arpa", "PTR", "own.lan."),
        record("*.lan", "A", "10.0.0.3"),
        record("loop.lan", "A", "127.0.0.1"),
    ]
    .concat();
    let of_hosts = "10.0.0.1 h.lan\n10.0.0.4 first.lan second.lan\n10.0.0.4 third.lan\n10.0.0.9 a.lan\n";
    let all = local_records(&records, of_hosts);
    let given: Vec<&str> = all.iter().map(String::as_str).collect();
    assert_eq!(
        given,
        [
            "a.lan A 10.0.0.1",
            "b.lan A 10.0.0.1",
            "c.lan A 10.0.0.2",
            "2.0.0.10.in-addr.arpa PTR own.lan",
            "*.lan A 10.0.0.3",
            "loop.lan A 127.0.0.1",
            "h.lan A 10.0.0.1",
            "first.lan A 10.0.0.4",
            "second.lan A 10.0.0.4",
            "third.lan A 10.0.0.4",
            "1.0.0.10.in-addr.arpa PTR a.lan",
            "4.0.0.10.in-addr.arpa PTR first.lan",
            "9.0.0.10.in-addr.arpa PTR a.lan",
        ],
        "a record of the configuration stands for those of the same name and type in hosts files"
    );
    let none = local_records(&format!("reverse_records = false\n{records}"), of_hosts);
    assert!(none.iter().all(|record| !record.contains("PTR") || record.ends_with("own.lan")), "{none:?}");
}

#[test]
fn a_hosts_file_that_is_gone_keeps_what_it_said_and_a_new_one_must_be_there() {
    let folder = tempfile::tempdir().unwrap();
    let paths = ["a", "b"].map(|name| folder.path().join(name));
    for (path, address) in paths.iter().zip(["10.0.0.1", "10.0.0.2"]) {
        std::fs::write(path, format!("{address} host.lan\n")).unwrap();
    }
    let hosts = Hosts::read(&paths).unwrap();
    std::fs::remove_file(&paths[0]).unwrap();
    std::fs::write(&paths[1], "10.0.0.3 host.lan\n").unwrap();
    let mut kept = Vec::new();
    let again = Hosts::read_again(&hosts, &paths, &mut |error| kept.push(error.index)).unwrap();
    let addresses = again.files().iter().map(|file| file.hosts[0].address.to_string());
    assert_eq!(addresses.collect::<Vec<_>>(), ["10.0.0.1", "10.0.0.3"]);
    assert_eq!(kept, [0]);
    let more = [paths[0].clone(), paths[1].clone(), folder.path().join("c")];
    let error = Hosts::read_again(&again, &more, &mut |_| {}).unwrap_err();
    assert_eq!((error.index, error.message().contains("check the path, or remove it here")), (2, true));
    assert!(Hosts::read(&paths).is_err());
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
            "4: list.format: unknown value `pain`; use one of plain, hosts, adblock, dnsmasq, unbound, rpz, regex, cidr, \
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
fn groups_are_checked_where_they_stand() {
    let ring = "[upstream.a]\nfallback = \"b\"\n[upstream.b]\nfallback = \"c\"\n[upstream.c]\nfallback = \"b\"\n";
    for (text, wanted) in [
        (
            "[upstream.Big]\nservers = []",
            "1: upstream: `Big` is no name for a group; use 1 to 32 lower-case letters, digits, `-` and `_`",
        ),
        (
            "[upstream.defualt]\nservers = []",
            "1: upstream.defualt: nothing asks the group `defualt`; name it as fallback of another group or as upstream of a \
             [[forward]], [[policy]] or [[list]] (default, allow and block are always asked)",
        ),
        (
            "[upstream.default]\nstrategy = \"random\"",
            "2: upstream.default.strategy: unknown value `random`; use one of fastest, parallel, ordered, round-robin",
        ),
        ("[upstream.default]\nparallel = 4", "2: upstream.default.parallel: 4 is out of bounds; use 2 to 3 servers"),
        (
            "[upstream.default]\nhedge_ms = 1",
            "2: upstream.default.hedge_ms: 1 is out of bounds; use 5 to 1900 milliseconds, or 0 to ask no other server",
        ),
        (
            "[upstream.default]\ncase_randomization = \"never\"",
            "2: upstream.default.case_randomization: unknown value `never`; use one of auto, on, off",
        ),
        (
            "[upstream.default]\ncookies = \"yes\"",
            "2: upstream.default.cookies: invalid type: string \"yes\"; use a boolean",
        ),
        (
            "[upstream.default]\nclient_subnet = \"send\"",
            "2: upstream.default.client_subnet: unknown value `send`; use one of drop, forward, set",
        ),
        (
            "[upstream.default]\nclient_subnet_v4 = 32",
            "2: upstream.default.client_subnet_v4: 32 is out of bounds; use 0 to 24 bits",
        ),
        (
            "[upstream.default]\n\nclient_subnet_v6 = 64",
            "3: upstream.default.client_subnet_v6: 64 is out of bounds; use 0 to 56 bits",
        ),
        (
            "[upstream.default]\n\nfallback = \"x\"",
            "3: upstream.default.fallback: there is no group `x`; add it as [upstream.NAME], or use one of default, allow, \
             block",
        ),
        (
            "[upstream.default]\nfallback = \"default\"",
            "2: upstream.default.fallback: `default` falls back to itself (default -> default); take one of these fallbacks \
             out",
        ),
        (ring, "2: upstream.a.fallback: `b` falls back to itself (a -> b -> c -> b); take one of these fallbacks out"),
        (
            "[[policy]]\nname = \"a\"\nclients = [\"10.0.0.1\"]\nupstream = \"x\"",
            "4: policy.upstream: there is no group `x`; add it as [upstream.NAME], or use one of default, allow, block",
        ),
        (
            "[[list]]\nname = \"a\"\npath = \"a\"\nformat = \"plain\"\nupstream = \"x\"",
            "5: list.upstream: there is no group `x`; add it as [upstream.NAME], or use one of default, allow, block",
        ),
    ] {
        assert_eq!(error(text), wanted, "{text}");
    }
    let groups: String = (0..62).map(|group| format!("[upstream.g{group}]\n")).collect();
    assert_eq!(error(&groups), "1: upstream: 65 groups are too many; use at most 64");
}

#[test]
fn forwarded_zones_are_checked_where_they_stand() {
    let forward = |more: &str| format!("[[forward]]\n{more}\n");
    for (text, wanted) in [
        (
            forward("zone = \"a..b\"\nservers = \"192.0.2.1\""),
            "2: forward.zone: `a..b` is no domain name (empty label); correct it",
        ),
        (forward("zone = []\nservers = \"192.0.2.1\""), "2: forward.zone: 0 zones; name from 1 to 1024"),
        (forward("servers = \"192.0.2.1\""), "1: forward: `zone` is missing; add it here"),
        (
            forward("zone = \"a\""),
            "2: forward.zone: has neither servers nor an upstream group; add servers = [\"192.0.2.53\"]",
        ),
        (
            forward("zone = \"a\"\nservers = \"192.0.2.1\"\nupstream = \"allow\""),
            "4: forward.upstream: names servers and an upstream group; remove one of them",
        ),
        (
            forward("zone = \"a\"\nupstream = \"x\""),
            "3: forward.upstream: there is no group `x`; add it as [upstream.NAME], or use one of default, allow, block",
        ),
        (
            forward("zone = \"a.example\"\nupstream = \"allow\"")
                + &forward("zone = \"A.example.\"\nupstream = \"block\""),
            "5: forward.zone: `a.example` is forwarded twice; name each zone once",
        ),
    ] {
        assert_eq!(error(&text), wanted, "{text}");
    }
    let text = forward("zone = [\"a.example\", \"b.example\"]\nservers = \"192.0.2.1\"");
    let settings = parse_text(&text).unwrap().settings();
    let zone = settings.forwards.find(&"www.b.example".parse().unwrap()).unwrap();
    let group = &settings.forwards.groups()[zone.group];
    let group = settings.groups.iter().find(|known| known.name == *group).unwrap();
    assert_eq!(group.servers, ["192.0.2.1:53".parse().unwrap()]);
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
