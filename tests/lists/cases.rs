//! Small lists of every format, and what each of their lines becomes: `NAME.FORMAT` beside `NAME.FORMAT.expect`.
//!
//! `LISTS_BLESS=1` in the environment writes the second anew, to be read before it is kept.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use corewall::lists::{AdblockModifiers, Disabled, Format, Item, Options, find_badfilters, read};
use corewall_sharding::rule::{Answer, Class, ClientMatch, Kind, Rule, RuleKey, Scope};

/// One line for an item, as the `.expect` files have it.
fn show(item: &Item<'_>) -> String {
    match item {
        Item::Rule { rule: Rule { class, key }, .. } => {
            let (name, target) = match key {
                RuleKey::Name { name, target } => (name.to_string(), target),
                RuleKey::Pattern { regex, target } => (regex.clone(), target),
                RuleKey::Address { net, target } => (net.to_string(), target),
            };
            let target = target.map(|target| format!(" -> {target} {:?}", class.alias_labels)).unwrap_or_default();
            format!("{} {} {name}{target}{}", kind(class.kind), scope(class.scope), details(class))
        }
        Item::Rewrite(rewrite) => format!("rewrite {} -> {}", rewrite.from, rewrite.to),
        Item::Skipped { line, reason } => format!("{line}: skipped, {reason}"),
        Item::Refused { line, text, reason } => format!("{line}: refused, {reason}: {text}"),
    }
}

fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::ForwardAllow => "forward-allow",
        Kind::ForwardBlock => "forward-block",
        Kind::Allow => "allow",
        Kind::Alias => "alias",
        Kind::Block => "block",
    }
}

fn scope(scope: Scope) -> &'static str {
    match scope {
        Scope::Exact => "exact",
        Scope::Subtree => "subtree",
        Scope::Below => "below",
        Scope::Pattern => "pattern",
        Scope::Address => "address",
    }
}

fn details(class: &Class) -> String {
    let mut text = String::new();
    if class.important {
        text += " important";
    }
    for server in &class.servers {
        write!(text, " server={server}").unwrap();
    }
    match &class.answer {
        None => {}
        Some(Answer::Mode(mode)) => write!(text, " answer={mode:?}").unwrap(),
        Some(Answer::Records(records)) => {
            for record in records {
                let data: String = record.rdata.iter().map(|octet| format!("{octet:02x}")).collect();
                let ttl = record.ttl_s.map(|seconds| format!("/{seconds}s")).unwrap_or_default();
                write!(text, " TYPE{}{ttl}={data}", record.rtype).unwrap();
            }
        }
    }
    let Some(condition) = &class.condition else { return text };
    let clients = |clients: &[ClientMatch]| {
        let shown = clients.iter().map(|client| match client {
            ClientMatch::Net(net) => net.to_string(),
            ClientMatch::Named(name) => format!("'{name}'"),
        });
        shown.collect::<Vec<_>>().join("|")
    };
    for (name, shown) in [
        ("types", condition.types.iter().map(u16::to_string).collect::<Vec<_>>().join("|")),
        ("types-not", condition.types_not.iter().map(u16::to_string).collect::<Vec<_>>().join("|")),
        ("names-not", condition.names_not.iter().map(ToString::to_string).collect::<Vec<_>>().join("|")),
        ("clients", clients(&condition.clients)),
        ("clients-not", clients(&condition.clients_not)),
        ("lifts", if condition.lifts_answers_only { "answers".to_owned() } else { String::new() }),
    ] {
        if !shown.is_empty() {
            write!(text, " {name}={shown}").unwrap();
        }
    }
    text
}

fn items(format: Format, text: &[u8], options: &Options) -> String {
    let mut disabled = Disabled::default();
    if format == Format::Adblock {
        find_badfilters(&mut &text[..], &mut disabled).unwrap();
    }
    let mut shown = String::new();
    let counts = read(format, &mut &text[..], options, &disabled, &mut |item| shown += &(show(&item) + "\n")).unwrap();
    let text = text.strip_suffix(b"\n").unwrap_or(text);
    assert_eq!(counts.lines, text.split(|&octet| octet == b'\n').count() as u64, "every line was seen");
    writeln!(
        shown,
        "{} lines, {} comments, {} rules, {} rewrites, {} skipped, {} refused, {} gained by stripping",
        counts.lines,
        counts.comments,
        counts.rules,
        counts.rewrites,
        counts.skipped_all(),
        counts.refused_all(),
        counts.gained_by_stripping
    )
    .unwrap();
    shown
}

#[test]
fn every_line_of_the_cases_becomes_what_is_written_beside_it() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/lists/cases");
    let mut seen = 0;
    for path in crate::files::below(&folder) {
        let name = path.file_name().unwrap().to_str().unwrap();
        let Some((_, format)) = name.rsplit_once('.').filter(|(_, format)| *format != "expect") else { continue };
        let found = items(format.parse().unwrap(), &fs::read(&path).unwrap(), &Options::new(0));
        let expected = fs::read_to_string(folder.join(format!("{name}.expect"))).unwrap_or_default();
        if std::env::var_os("LISTS_BLESS").is_some() {
            fs::write(folder.join(format!("{name}.expect")), &found).unwrap();
            continue;
        }
        assert!(found == expected, "{name} became:\n{found}");
        seen += 1;
    }
    assert!(seen >= 8, "{seen} cases");
}

fn with(format: Format, text: &str, change: impl FnOnce(&mut Options)) -> Vec<String> {
    let mut options = Options::new(0);
    change(&mut options);
    let shown = items(format, text.as_bytes(), &options);
    // The counts are told by the cases.
    shown.lines().take(shown.lines().count() - 1).map(str::to_owned).collect()
}

#[test]
fn an_allow_list_allows_and_an_important_list_is_important() {
    let allow = |options: &mut Options| options.default_kind = Kind::Allow;
    assert_eq!(with(Format::Plain, "a.example", allow), ["allow exact a.example"]);
    assert_eq!(with(Format::Hosts, "0.0.0.0 a.example", allow), ["allow exact a.example"]);
    assert_eq!(with(Format::Regex, "^ads\\.", allow), ["allow pattern ^ads\\."]);
    assert_eq!(
        with(Format::Adblock, "||a.example^\n@@||b.example^\n||ads.\nc.example", allow),
        [
            "allow subtree a.example",
            "allow subtree b.example",
            "allow pattern (?:^|\\.)ads\\.",
            "allow exact c.example"
        ]
    );
    let important = |options: &mut Options| options.important = true;
    for (format, text) in [(Format::Plain, "a.example"), (Format::Dnsmasq, "cname=a.example,b.example")] {
        assert!(with(format, text, important)[0].ends_with(" important"), "{format}");
    }
}

#[test]
fn names_of_a_subtree_list_reach_below_themselves() {
    let subtree = |options: &mut Options| options.subtree = true;
    assert_eq!(
        with(Format::Plain, "a.example\n*.b.example\ncom", subtree),
        [
            "block subtree a.example",
            "block below b.example",
            "3: refused, would cover a whole public suffix; allow_public_suffix is off: com"
        ]
    );
    assert_eq!(with(Format::Hosts, ":: a.example", subtree), ["block subtree a.example"]);
}

#[test]
fn addresses_of_a_hosts_file_are_answers_when_the_list_says_so() {
    let addresses = |options: &mut Options| options.hosts_addresses = true;
    assert_eq!(
        with(Format::Hosts, "192.0.2.1 nas nas.example\n2001:db8::1 nas\n0.0.0.0 ads.example", addresses),
        [
            "block exact ads.example",
            "block exact nas TYPE1=c0000201 TYPE28=20010db8000000000000000000000001",
            "block exact nas.example TYPE1=c0000201"
        ]
    );
}

#[test]
fn stripping_brings_back_rules_that_browser_modifiers_void() {
    let strip = |options: &mut Options| options.adblock_modifiers = AdblockModifiers::Strip;
    let text =
        "||a.example^$all\n||b.example^$third-party,popup\n||c.example^$doc,removeparam\n||d.example^$3p,important";
    let stripped = with(Format::Adblock, text, strip);
    assert_eq!(stripped[0], "block subtree a.example");
    assert_eq!(stripped[1], "block subtree b.example");
    assert!(stripped[2].starts_with("3: refused"));
    assert_eq!(stripped[3], "block subtree d.example important");
}

#[test]
fn wide_rules_count_where_the_list_allows_them() {
    let all = |options: &mut Options| (options.allow_wide, options.allow_public_suffix) = (true, true);
    assert_eq!(
        with(Format::Adblock, "||co.uk^\n||ad*\n||*.top^$denyallow=good.top\n||*^\n.com^", all),
        [
            "block subtree co.uk",
            "block pattern (?:^|\\.)ad",
            "block below top names-not=good.top",
            "4: refused, pattern matches too many names; allow_wide is off: ||*^",
            "block below com"
        ]
    );
    assert_eq!(with(Format::Regex, ".*", all), ["block pattern .*"]);
    assert_eq!(with(Format::Dnsmasq, "address=/#/", all), ["block subtree . answer=Nxdomain"]);
}

#[test]
fn badfilter_reaches_over_lists_and_only_its_own_text() {
    let mut disabled = Disabled::default();
    let first = b"||a.example^$badfilter\n@@||b.example^$badfilter\n||c.example^$important,badfilter\n! x$badfilter";
    find_badfilters(&mut &first[..], &mut disabled).unwrap();
    assert_eq!(disabled.len(), 3);
    let text =
        b"||a.example^\n||b.example^\n@@||b.example^\n||c.example^\n||c.example^$important\n||a.example^$dnstype=A\n\
        ||a.example^$important";
    let mut shown = Vec::new();
    read(Format::Adblock, &mut &text[..], &Options::new(0), &disabled, &mut |item| shown.push(show(&item))).unwrap();
    assert_eq!(
        shown,
        [
            "1: skipped, switched off by $badfilter",
            "block subtree b.example",
            "3: skipped, switched off by $badfilter",
            "block subtree c.example",
            "5: skipped, switched off by $badfilter",
            "6: skipped, switched off by $badfilter",
            "block subtree a.example important"
        ]
    );
}

#[test]
fn a_database_is_no_text() {
    let error = read(Format::DnsmasqSqlite, &mut &b""[..], &Options::new(0), &Disabled::default(), &mut |_| {});
    assert_eq!(error.unwrap_err().kind(), std::io::ErrorKind::InvalidInput);
    for (format, name) in Format::ALL {
        assert_eq!(name.parse(), Ok(format));
        assert_eq!(format.to_string(), name);
    }
    assert!("nosuch".parse::<Format>().is_err());
}
