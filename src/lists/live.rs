//! Rules as an operator writes them by hand, one a line: for `corewall rule`.
//!
//! ```text
//! LINE   = [KIND [SCOPE]] KEY [TARGET] | a rule in Adblock syntax | # comment
//! KEY    = NAME | *.NAME | /PATTERN/ | ADDRESS | PREFIX
//! ```
//!
//! What a line does not say itself, [`LiveOptions`] do. Invariant: what leaves here was judged as the rules of lists are: names are
//! names, a pattern does not match nearly everything, nothing reaches over a public suffix unless that is wanted.

use std::net::{IpAddr, SocketAddr};

use corewall_sharding::name::Name;
use corewall_sharding::overlay::{Effect, LiveChange, Selector, Subject};
use corewall_sharding::rule::{Answer, BlockMode, Class, IpRewrite, Kind, Rule, RuleKey, Scope};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::adblock::AdblockReader;
use super::badfilter::Disabled;
use super::cidr::read_net;
use super::names::{read_address, read_name};
use super::patterns::{Dialect, Judgement, REGEX_BYTES_MAX, judge};
use super::sink::{Sink, reaches_too_far};
use super::{Item, Options, RefuseReason};

/// What a rule does, in the words of the command line and of the shards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs, reason = "see `Kind`")]
pub enum RuleKind {
    Block,
    Allow,
    ForwardAllow,
    ForwardBlock,
    Alias,
    /// An address in upstreams' answers becomes another.
    IpRewrite,
}

impl RuleKind {
    /// All of them, with their words.
    pub const ALL: [(RuleKind, &'static str); 6] = [
        (Self::Block, "block"),
        (Self::Allow, "allow"),
        (Self::ForwardAllow, "forward-allow"),
        (Self::ForwardBlock, "forward-block"),
        (Self::Alias, "alias"),
        (Self::IpRewrite, "ip-rewrite"),
    ];

    /// Of its word.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, known)| *known == word).map(|(kind, _)| *kind)
    }

    /// As the overlay has it.
    pub fn effect(self) -> Effect {
        match self {
            Self::Block => Effect::Rule(Kind::Block),
            Self::Allow => Effect::Rule(Kind::Allow),
            Self::ForwardAllow => Effect::Rule(Kind::ForwardAllow),
            Self::ForwardBlock => Effect::Rule(Kind::ForwardBlock),
            Self::Alias => Effect::Rule(Kind::Alias),
            Self::IpRewrite => Effect::Rewrite,
        }
    }
}

/// The words of scopes.
pub const SCOPES: [(Scope, &str); 5] = [
    (Scope::Exact, "exact"),
    (Scope::Subtree, "subtree"),
    (Scope::Below, "below"),
    (Scope::Pattern, "pattern"),
    (Scope::Address, "address"),
];

/// The words of block modes.
pub const MODES: [(BlockMode, &str); 7] = [
    (BlockMode::Zero, "zero"),
    (BlockMode::Sinkhole, "sinkhole"),
    (BlockMode::Nxdomain, "nxdomain"),
    (BlockMode::Nodata, "nodata"),
    (BlockMode::Refused, "refused"),
    (BlockMode::Drop, "drop"),
    (BlockMode::TcpOnly, "tcp-only"),
];

/// What lines do not say themselves.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LiveOptions {
    /// None is `block`.
    pub kind: Option<RuleKind>,
    /// None is the name alone.
    pub scope: Option<Scope>,
    /// Where aliases lead, or the address that rewrites put in place.
    pub target: Option<String>,
    /// Servers of forwarding rules.
    pub servers: Vec<SocketAddr>,
    /// How blocked questions are answered.
    pub answer: Option<BlockMode>,
    /// The rules are in the important tiers.
    pub important: bool,
    /// Rules that reach over a public suffix, or match nearly everything, count.
    pub allow_wide: bool,
}

/// Reads a line; none for a comment or an empty one. One line may be several rules.
///
/// # Errors
/// What is wrong with it, in words.
pub fn read_line(line: &str, options: &LiveOptions) -> Result<Vec<LiveChange>, String> {
    let text = line.trim();
    if text.is_empty() || text.starts_with(['#', '!']) {
        return Ok(Vec::new());
    }
    if is_adblock(text) {
        return read_adblock(text, options);
    }
    Written::read(text, options.kind, options.scope)?.change(options).map(|change| vec![change])
}

/// Reads a line that names rules to be looked for; none for a comment or an empty one.
///
/// # Errors
/// What is wrong with it, in words.
pub fn read_selector(
    line: &str,
    kind: Option<RuleKind>,
    scope: Option<Scope>,
    list: Option<&str>,
) -> Result<Option<Selector>, String> {
    let text = line.trim();
    if text.is_empty() || text.starts_with(['#', '!']) {
        return Ok(None);
    }
    let list = list.map(str::to_owned);
    if is_adblock(text) {
        let options = LiveOptions { kind, allow_wide: true, ..LiveOptions::default() };
        let changes = read_adblock(text, &options)?;
        let [LiveChange::Rule(rule)] = &changes[..] else {
            return Err("it is more than one rule; name them one by one".to_owned());
        };
        let subject = match &rule.key {
            RuleKey::Name { name, .. } => Subject::Name(*name),
            RuleKey::Pattern { regex, .. } => Subject::Pattern(regex.clone()),
            RuleKey::Address { net, .. } => Subject::Address(*net),
        };
        let effect = Some(Effect::Rule(rule.class.kind));
        return Ok(Some(Selector { subject, scope: Some(rule.class.scope), effect, list }));
    }
    let written = Written::read(text, kind, scope)?;
    let (subject, scope) = match written.key {
        WrittenKey::Name(name, below) => (Subject::Name(name), if below { Some(Scope::Below) } else { written.scope }),
        WrittenKey::Pattern(regex) => (Subject::Pattern(regex), None),
        WrittenKey::Address(net) => (Subject::Address(net), None),
    };
    Ok(Some(Selector { subject, scope, effect: written.kind.map(RuleKind::effect), list }))
}

fn is_adblock(text: &str) -> bool {
    text.starts_with("||") || text.starts_with("@@") || text.starts_with('|')
}

/// A line taken apart.
struct Written<'t> {
    kind: Option<RuleKind>,
    scope: Option<Scope>,
    key: WrittenKey,
    target: Option<&'t str>,
}

enum WrittenKey {
    /// With `*.` in front: what is below it.
    Name(Name, bool),
    Pattern(String),
    Address(IpNet),
}

impl<'t> Written<'t> {
    fn read(text: &'t str, kind: Option<RuleKind>, scope: Option<Scope>) -> Result<Self, String> {
        let mut words = text.split_whitespace().peekable();
        let first = words.next().unwrap_or_default();
        // A word alone is a name, whatever it is called.
        let (mut kind, mut scope, mut key) = (kind, scope, first);
        if words.peek().is_some()
            && let Some(said) = RuleKind::from_word(first)
        {
            kind = Some(said);
            key = words.next().unwrap_or_default();
            if words.peek().is_some_and(|word| !word.starts_with('#'))
                && let Some((said, _)) = SCOPES.iter().find(|(_, word)| *word == key)
            {
                scope = Some(*said);
                key = words.next().unwrap_or_default();
            }
        }
        let target = words.next_if(|word| !word.starts_with('#'));
        if let Some(word) = words.next().filter(|word| !word.starts_with('#')) {
            return Err(format!("`{word}` is one word too many; write it as [KIND [SCOPE]] KEY [TARGET]"));
        }
        let key = WrittenKey::read(key, scope)?;
        match (&key, scope) {
            (WrittenKey::Name(_, true), Some(scope)) if scope != Scope::Below => {
                Err("`*.` speaks of what is below the name: leave it out, or use the scope `below`".to_owned())
            }
            (WrittenKey::Name(..), Some(Scope::Address)) => Err("it is no address or prefix".to_owned()),
            (WrittenKey::Address(_), Some(Scope::Exact | Scope::Subtree | Scope::Below)) => {
                Err("it is an address, and the scope is one of names".to_owned())
            }
            (WrittenKey::Pattern(_), Some(scope)) if scope != Scope::Pattern => {
                Err("it is a pattern, and the scope is another".to_owned())
            }
            _ => Ok(Written { kind, scope, key, target }),
        }
    }

    fn change(self, options: &LiveOptions) -> Result<LiveChange, String> {
        let kind = self.kind.unwrap_or(RuleKind::Block);
        let target = self.target.or(options.target.as_deref());
        let Effect::Rule(kind) = kind.effect() else {
            return rewrite(&self.key, target);
        };
        let target = match (kind, target) {
            (Kind::Alias, Some(text)) => {
                Some(read_name(text.as_bytes()).map_err(|reason| format!("`{text}`: {reason}"))?)
            }
            (Kind::Alias, None) => return Err("an alias needs a target".to_owned()),
            (_, Some(text)) => return Err(format!("`{text}` is one word too many: only an alias has a target")),
            (_, None) => None,
        };
        let is_forwarded = matches!(kind, Kind::ForwardAllow | Kind::ForwardBlock);
        if !options.servers.is_empty() && !is_forwarded {
            return Err("only a rule that forwards has servers".to_owned());
        }
        if options.answer.is_some() && kind != Kind::Block {
            return Err("only a rule that blocks has an answer".to_owned());
        }
        let (scope, key) = match self.key {
            WrittenKey::Name(name, true) => (Scope::Below, RuleKey::Name { name, target }),
            WrittenKey::Name(name, false) => (self.scope.unwrap_or(Scope::Exact), RuleKey::Name { name, target }),
            WrittenKey::Pattern(regex) => (Scope::Pattern, pattern(regex, target, options)?),
            WrittenKey::Address(_) if is_forwarded => {
                return Err("an address in an answer cannot be forwarded; name what is asked for".to_owned());
            }
            WrittenKey::Address(net) => (Scope::Address, RuleKey::Address { net, target }),
        };
        let mut class = Class::plain(kind, scope, 0);
        class.servers.clone_from(&options.servers);
        finish(Rule { class, key }, options)
    }
}

impl WrittenKey {
    fn read(text: &str, scope: Option<Scope>) -> Result<Self, String> {
        if let Some(regex) = text.strip_prefix('/').and_then(|text| text.strip_suffix('/')) {
            return Ok(Self::Pattern(regex.to_owned()));
        }
        if scope == Some(Scope::Pattern) {
            return Ok(Self::Pattern(text.to_owned()));
        }
        let is_address = text.contains('/')
            || (text.contains(':') || ends_in_a_digit(text)) && read_address(text.as_bytes()).is_some();
        if is_address {
            return read_net(text.as_bytes()).map(Self::Address).map_err(|reason| reason.to_string());
        }
        let (name, below) = match text.strip_prefix("*.") {
            Some(rest) => (rest, true),
            None => (text, false),
        };
        if name == "." {
            return Ok(Self::Name(Name::ROOT, below));
        }
        read_name(name.as_bytes()).map(|name| Self::Name(name, below)).map_err(|reason| reason.to_string())
    }
}

/// No top-level domain does; and most names are then not tried as addresses.
fn ends_in_a_digit(text: &str) -> bool {
    text.ends_with(|last: char| last.is_ascii_digit())
}

fn rewrite(key: &WrittenKey, target: Option<&str>) -> Result<LiveChange, String> {
    let WrittenKey::Address(from) = key else {
        return Err("what is rewritten is an address or a prefix".to_owned());
    };
    let to = target.ok_or("a rewrite needs the address that is put in place, behind the first one or by --target")?;
    let to: IpAddr = to.parse().map_err(|_| format!("`{to}` is no address"))?;
    if to.is_ipv4() != from.addr().is_ipv4() {
        return Err("both addresses of a rewrite must be of one family".to_owned());
    }
    Ok(LiveChange::Rewrite(IpRewrite { from: *from, to, list: 0 }))
}

fn pattern(regex: String, target: Option<Name>, options: &LiveOptions) -> Result<RuleKey, String> {
    if regex.len() > REGEX_BYTES_MAX {
        return Err(format!("a pattern has at most {REGEX_BYTES_MAX} bytes"));
    }
    match judge(&regex, Dialect::Pcre) {
        Judgement::Good => {}
        Judgement::TooWide if options.allow_wide => {}
        Judgement::TooWide => return Err(wide(RefuseReason::TooWide)),
        Judgement::Bad => return Err(RefuseReason::BadRegex.to_string()),
        Judgement::NoName => return Err("it holds what no name holds, and would match nothing".to_owned()),
    }
    Ok(RuleKey::Pattern { regex, target })
}

fn wide(reason: RefuseReason) -> String {
    format!("{reason}; --allow-wide takes it all the same")
}

/// What all rules are held to, and have from the options.
fn finish(mut rule: Rule, options: &LiveOptions) -> Result<LiveChange, String> {
    rule.class.important |= options.important;
    if rule.class.kind == Kind::Block && rule.class.answer.is_none() {
        rule.class.answer = options.answer.map(Answer::Mode);
    }
    match reaches_too_far(&rule) {
        Some(reason) if !options.allow_wide => Err(wide(reason)),
        _ => Ok(LiveChange::Rule(rule)),
    }
}

/// The line says itself what it does, and to which names.
fn read_adblock(text: &str, options: &LiveOptions) -> Result<Vec<LiveChange>, String> {
    let default_kind = match options.kind {
        None | Some(RuleKind::Block) => Kind::Block,
        Some(RuleKind::Allow) => Kind::Allow,
        Some(_) => return Err("in Adblock syntax a rule blocks or allows; write the name alone".to_owned()),
    };
    let list_options = Options {
        default_kind,
        important: options.important,
        // Judged below, in words for whoever has typed it.
        allow_public_suffix: true,
        allow_wide: options.allow_wide,
        ..Options::new(0)
    };
    let (mut rules, mut refused) = (Vec::new(), None);
    let mut take = |item: Item<'_>| match item {
        Item::Rule { rule, .. } => rules.push(rule.clone()),
        Item::Rewrite(_) => {}
        Item::Skipped { reason, .. } => refused = Some(reason.to_string()),
        Item::Refused { reason, .. } => refused = Some(reason.to_string()),
    };
    let mut sink = Sink::new(&list_options, &mut take);
    AdblockReader::new(&Disabled::default()).line(text.as_bytes(), &mut sink);
    sink.finish();
    if let Some(reason) = refused {
        return Err(reason);
    }
    if rules.is_empty() {
        return Err("it says nothing that a DNS filter could do".to_owned());
    }
    rules.into_iter().map(|rule| finish(rule, options)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<LiveChange, String> {
        read_with(line, &LiveOptions::default())
    }

    fn read_with(line: &str, options: &LiveOptions) -> Result<LiveChange, String> {
        read_line(line, options).map(|mut changes| {
            assert_eq!(changes.len(), 1, "{line}");
            changes.remove(0)
        })
    }

    /// Kind, scope and key of a rule, its key as a text.
    fn parts(change: Result<LiveChange, String>) -> (Kind, Scope, String, Option<String>) {
        let LiveChange::Rule(Rule { class, key }) = change.unwrap() else { panic!("no rule") };
        let (key, target) = match key {
            RuleKey::Name { name, target } => (name.to_string(), target),
            RuleKey::Pattern { regex, target } => (regex, target),
            RuleKey::Address { net, target } => (net.to_string(), target),
        };
        (class.kind, class.scope, key, target.map(|target| target.to_string()))
    }

    #[test]
    fn a_line_says_what_it_means() {
        use {Kind::*, Scope::*};
        for (line, kind, scope, key, target) in [
            ("a.example", Block, Exact, "a.example", None),
            ("  A.Example.  # a comment", Block, Exact, "a.example", None),
            ("*.a.example", Block, Below, "a.example", None),
            ("allow a.example", Allow, Exact, "a.example", None),
            ("block subtree a.example", Block, Subtree, "a.example", None),
            ("alias below a.example b.example", Alias, Below, "a.example", Some("b.example")),
            ("forward-block subtree a.example", ForwardBlock, Subtree, "a.example", None),
            ("/^ads[0-9]+\\./", Block, Pattern, "^ads[0-9]+\\.", None),
            ("allow pattern ^ads[0-9]+\\.", Allow, Pattern, "^ads[0-9]+\\.", None),
            ("192.0.2.0/24", Block, Address, "192.0.2.0/24", None),
            ("allow 2001:db8::1", Allow, Address, "2001:db8::1/128", None),
            ("||a.example^", Block, Subtree, "a.example", None),
            ("@@||a.example^", Allow, Subtree, "a.example", None),
            ("subtree a.example", Block, Exact, "", None),
        ] {
            if key.is_empty() {
                assert!(read(line).is_err(), "{line}: a scope needs a kind in front");
                continue;
            }
            assert_eq!(parts(read(line)), (kind, scope, key.to_owned(), target.map(str::to_owned)), "{line}");
        }
        // A word alone is a name, whatever it is called.
        let wide = LiveOptions { allow_wide: true, ..LiveOptions::default() };
        assert_eq!(parts(read_with("block", &wide)).2, "block");
        for nothing in ["", "  ", "# a comment", "! a comment"] {
            assert_eq!(read_line(nothing, &LiveOptions::default()), Ok(Vec::new()));
        }
        let rewrite = IpRewrite { from: "10.0.0.0/8".parse().unwrap(), to: "192.0.2.1".parse().unwrap(), list: 0 };
        assert_eq!(read("ip-rewrite 10.0.0.0/8 192.0.2.1"), Ok(LiveChange::Rewrite(rewrite)));
    }

    #[test]
    fn what_makes_no_sense_is_refused_in_words() {
        for (line, said) in [
            ("a.example b.example", "only an alias has a target"),
            ("alias a.example", "needs a target"),
            ("alias a.example b.example c.example", "one word too many"),
            ("block subtree *.a.example", "below the name"),
            ("block exact 192.0.2.1", "scope is one of names"),
            ("block address a.example", "no address or prefix"),
            ("block exact /a.*example/", "it is a pattern"),
            ("forward-allow 192.0.2.1", "cannot be forwarded"),
            ("ip-rewrite a.example 192.0.2.1", "is an address or a prefix"),
            ("ip-rewrite 192.0.2.1 2001:db8::1", "of one family"),
            ("ip-rewrite 192.0.2.1", "put in place"),
            ("*.com", "--allow-wide"),
            ("block subtree co.uk", "--allow-wide"),
            ("||co.uk^", "--allow-wide"),
            ("0.0.0.0/0", "--allow-wide"),
            ("/.*/", "--allow-wide"),
            ("/(/", ""),
            ("a..example", ""),
            ("http://a.example/", ""),
            ("192.0.2.1/24", ""),
            ("||a.example^$popup", ""),
        ] {
            let error = read_line(line, &LiveOptions::default()).expect_err(line);
            assert!(error.contains(said) && !error.is_empty(), "{line}: {error}");
        }
        let wide = LiveOptions { allow_wide: true, ..LiveOptions::default() };
        for line in ["*.com", "||co.uk^", "0.0.0.0/0", "/.*/", "."] {
            assert!(read_line(line, &wide).is_ok(), "{line}");
        }
    }

    #[test]
    fn options_are_for_what_lines_do_not_say() {
        let options = LiveOptions {
            kind: Some(RuleKind::Alias),
            scope: Some(Scope::Subtree),
            target: Some("t.example".to_owned()),
            important: true,
            ..LiveOptions::default()
        };
        assert_eq!(
            parts(read_with("a.example", &options)),
            (Kind::Alias, Scope::Subtree, "a.example".to_owned(), Some("t.example".to_owned()))
        );
        let LiveChange::Rule(rule) = read_with("a.example u.example", &options).unwrap() else { panic!("no rule") };
        assert!(rule.class.important);
        let answered = LiveOptions { answer: Some(BlockMode::Refused), ..LiveOptions::default() };
        for line in ["a.example", "||a.example^"] {
            let LiveChange::Rule(rule) = read_with(line, &answered).unwrap() else { panic!("no rule") };
            assert_eq!(rule.class.answer, Some(Answer::Mode(BlockMode::Refused)), "{line}");
        }
        assert!(read_with("allow a.example", &answered).is_err());
        let servers = vec!["192.0.2.1:53".parse().unwrap()];
        let forwarded = LiveOptions { kind: Some(RuleKind::ForwardAllow), servers, ..LiveOptions::default() };
        let LiveChange::Rule(rule) = read_with("a.example", &forwarded).unwrap() else { panic!("no rule") };
        assert_eq!(rule.class.servers, forwarded.servers);
        assert!(read_with("block a.example", &forwarded).is_err());
    }

    #[test]
    fn a_selector_takes_all_rules_on_its_key_unless_it_says_which() {
        let select = |line| read_selector(line, None, None, None).unwrap().unwrap();
        let name: Name = "a.example".parse().unwrap();
        let any = Selector { subject: Subject::Name(name), scope: None, effect: None, list: None };
        assert_eq!(select("a.example"), any);
        assert_eq!(select("*.a.example"), Selector { scope: Some(Scope::Below), ..any.clone() });
        let blocks = Some(Effect::Rule(Kind::Block));
        assert_eq!(select("||a.example^"), Selector { scope: Some(Scope::Subtree), effect: blocks, ..any.clone() });
        assert_eq!(select("block a.example"), Selector { effect: blocks, ..any.clone() });
        assert_eq!(select("/.*/").subject, Subject::Pattern(".*".to_owned()));
        assert_eq!(select("10.0.0.1").subject, Subject::Address("10.0.0.1/32".parse().unwrap()));
        assert_eq!(select("com"), Selector { subject: Subject::Name("com".parse().unwrap()), ..any });
        assert_eq!(read_selector(" # none", None, None, None), Ok(None));
    }

    #[test]
    fn no_line_makes_it_panic() {
        let line = "alias below *.a.example b.example # /x/ ||y^$dnsrewrite=1.2.3.4 10.0.0.0/8";
        for length in 0..line.len() {
            let _ = read_line(&line[..length], &LiveOptions::default());
            let _ = read_line(&line[length..], &LiveOptions::default());
            for bit in 0..8 {
                let mut bytes = line.as_bytes().to_vec();
                bytes[length] ^= 1 << bit;
                let text = String::from_utf8_lossy(&bytes);
                let _ = read_line(&text, &LiveOptions::default());
                let _ = read_selector(&text, None, None, None);
            }
        }
    }
}
