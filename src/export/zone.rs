//! Response policy zones.
//!
//! A zone has at most one action for an owner, so of several rules on one name the one that decides is written, and the others
//! are counted as hidden. Invariant: an action is written only where a reader of such zones makes the same verdict of it; what
//! RPZ has no word for (patterns, forwarding, conditions other than clients, rewrites) is left out.
//!
//! In other programs the most specific name of a zone wins, here an allow rule wins over every block rule: that is told.

use std::io::{self, Write};
use std::net::IpAddr;

use corewall_sharding::name::{NAME_BYTES_MAX, Name};
use corewall_sharding::rule::{
    AliasLabels, Answer, BlockMode, Class, ClassId, ClientMatch, Condition, IpRewrite, Kind, ListId, Scope,
};
use ipnet::IpNet;

use super::said::SaidRecord;
use super::{Book, CONDITION, FORWARD, IMPORTANT, Left, PATTERN, REWRITE, ROOT, SPELLING, Writer};

/// The zone's own name, which nobody asks for (RFC 6761).
const APEX: &str = "rpz.invalid";
/// Seconds of records that say none: what a blocked answer has by default.
const TTL_S: u32 = 60;
/// Types whose records in a policy zone mean something else than an answer: NS, CNAME, SOA, DNAME.
const TYPES_OF_ZONES: [u16; 4] = [2, 5, 6, 39];

const NXDOMAIN_NOTE: &str = "block rules whose answer is the block mode's are said as NXDOMAIN";
const HIDDEN: &str = "rules hidden by a stronger one on the same name";
const ALLOW_NOTE: &str = "allow rules: other programs let a more specific block rule of the zone win over them";

/// What a class makes of its owners, but for the target of an alias.
#[derive(Clone)]
enum Action {
    /// Right-hand side of a CNAME.
    Cname(&'static str),
    /// A CNAME to the rule's target, `*.` in front of it or not.
    Target { all: bool },
    /// Type, TTL and data of each record.
    Records(Vec<SaidRecord>),
}

#[derive(Clone)]
struct Said {
    action: Action,
    itself: bool,
    below: bool,
    /// Only questions of these clients.
    clients: Vec<IpNet>,
    note: Option<&'static str>,
    rank: Rank,
}

/// The lower one decides: allow, alias, block; the rule for the name alone; the list that stands first.
type Rank = (u8, bool, ListId);

/// A rule on the name at hand: what it says of the name itself, and of the names below it.
struct Gathered {
    class: ClassId,
    rank: Rank,
    lines: [Option<String>; 2],
}

/// Writes a zone.
pub struct ZoneWriter {
    classes: Vec<Result<Said, &'static str>>,
    serial: u32,
    left: Left,
    /// The name at hand, and the rules on it.
    name: String,
    gathered: Vec<Gathered>,
}

impl ZoneWriter {
    /// The serial is the moment of the build, in seconds since 1970.
    pub fn new(book: Book<'_>, created_s: u64) -> Self {
        Self {
            classes: book.classes.iter().map(said).collect(),
            // It goes round in 2106, as serials do (RFC 1982).
            serial: created_s as u32,
            left: Left::default(),
            name: String::new(),
            gathered: Vec::new(),
        }
    }

    fn said(&mut self, class: ClassId) -> Option<Said> {
        match self.classes.get(class as usize)? {
            Ok(said) => Some(said.clone()),
            Err(why) => {
                self.left.leave_out(why);
                None
            }
        }
    }

    fn count(&mut self, said: &Said) {
        self.left.written += 1;
        if let Some(note) = said.note {
            self.left.note(note);
        }
    }

    /// Writes what decides about the name at hand, and about the names below it.
    fn flush(&mut self, out: &mut dyn Write) -> io::Result<()> {
        let mut gathered = std::mem::take(&mut self.gathered);
        // Stable: of two targets the one that the store has first stays.
        gathered.sort_by_key(|rule| rule.rank);
        let mut is_said = [false; 2];
        for Gathered { class, lines, .. } in gathered.drain(..) {
            let mut is_written = false;
            for (lines, is_said) in lines.into_iter().zip(&mut is_said) {
                if let Some(lines) = lines.filter(|_| !*is_said) {
                    (*is_said, is_written) = (true, true);
                    out.write_all(lines.as_bytes())?;
                }
            }
            match self.classes.get(class as usize) {
                Some(Ok(said)) if is_written => {
                    let said = said.clone();
                    self.count(&said);
                }
                _ => self.left.leave_out(HIDDEN),
            }
        }
        // Its memory serves the next name.
        self.gathered = gathered;
        Ok(())
    }
}

fn said(class: &Class) -> Result<Said, &'static str> {
    if class.important {
        return Err(IMPORTANT);
    }
    let clients = match &class.condition {
        None => Vec::new(),
        Some(condition) => clients_alone(condition).ok_or(CONDITION)?,
    };
    let mut note = None;
    let action = match (class.kind, &class.answer) {
        (Kind::ForwardAllow | Kind::ForwardBlock, _) => return Err(FORWARD),
        (Kind::Allow, _) => {
            note = Some(ALLOW_NOTE);
            Action::Cname("rpz-passthru.")
        }
        (Kind::Alias, _) => match class.alias_labels {
            AliasLabels::None => Action::Target { all: false },
            AliasLabels::All => Action::Target { all: true },
            // For a name alone there are no labels below it to be kept.
            AliasLabels::Below if class.scope == Scope::Exact => Action::Target { all: false },
            AliasLabels::Below => return Err("aliases that keep the labels below them"),
        },
        (Kind::Block, None | Some(Answer::Mode(BlockMode::Zero | BlockMode::Sinkhole | BlockMode::Refused))) => {
            note = Some(NXDOMAIN_NOTE);
            Action::Cname(".")
        }
        (Kind::Block, Some(Answer::Mode(BlockMode::Nxdomain))) => Action::Cname("."),
        (Kind::Block, Some(Answer::Mode(BlockMode::Nodata))) => Action::Cname("*."),
        (Kind::Block, Some(Answer::Mode(BlockMode::Drop))) => Action::Cname("rpz-drop."),
        (Kind::Block, Some(Answer::Mode(BlockMode::TcpOnly))) => Action::Cname("rpz-tcp-only."),
        (Kind::Block, Some(Answer::Records(records))) if records.is_empty() => Action::Cname("*."),
        (Kind::Block, Some(Answer::Records(records))) => {
            if records.iter().any(|record| TYPES_OF_ZONES.contains(&record.rtype)) {
                return Err("rules that answer by records which a zone needs for itself");
            }
            Action::Records(records.iter().map(SaidRecord::of).collect())
        }
    };
    let (itself, below) = match class.scope {
        Scope::Exact => (true, false),
        Scope::Subtree => (true, true),
        Scope::Below => (false, true),
        Scope::Pattern => return Err(PATTERN),
        Scope::Address => (true, false),
    };
    let tier = match class.kind {
        Kind::ForwardAllow | Kind::ForwardBlock | Kind::Allow => 0,
        Kind::Alias => 1,
        Kind::Block => 2,
    };
    let rank = (tier, class.scope != Scope::Exact, class.list);
    Ok(Said { action, itself, below, clients, note, rank })
}

/// The networks of a condition that speaks of nothing else.
fn clients_alone(condition: &Condition) -> Option<Vec<IpNet>> {
    let rest = Condition { clients: Vec::new(), ..condition.clone() };
    let net = |client: &ClientMatch| match client {
        ClientMatch::Net(net) => Some(*net),
        ClientMatch::Named(_) => None,
    };
    if rest.is_empty() { condition.clients.iter().map(net).collect() } else { None }
}

/// The lines of one owner, given without the zone's name; none when there is no word for it.
fn lines(owner: &str, action: &Action, target: Option<&str>) -> Option<String> {
    let whole = Name::from_text(&format!("{owner}.{APEX}")).ok()?;
    if whole.as_wire().len() > NAME_BYTES_MAX {
        return None;
    }
    let owner = escaped(owner);
    match action {
        Action::Cname(to) => Some(format!("{owner} CNAME {to}\n")),
        Action::Target { all } => {
            let target = target.filter(|target| !is_action(target, &owner))?;
            let star = if *all { "*." } else { "" };
            Some(format!("{owner} CNAME {star}{}.\n", escaped(target)))
        }
        Action::Records(records) => {
            let line = |record: &SaidRecord| {
                let ttl_s = record.ttl_s.unwrap_or(TTL_S);
                format!("{owner} {ttl_s} IN {} {}\n", record.rtype, record.data)
            };
            Some(records.iter().map(line).collect())
        }
    }
}

/// Whether a target would be read as something else: as an action, or as "pass" where it is the name itself.
fn is_action(target: &str, owner: &str) -> bool {
    target.is_empty() || target.starts_with('*') || target.starts_with("rpz-") || target == owner
}

/// Whether a name can be an owner: names of another meaning in policy zones cannot.
fn is_owner(name: &str) -> bool {
    let last = name.rsplit('.').next().unwrap_or_default();
    let is_address =
        name.parse::<IpAddr>().is_ok() || name.bytes().all(|octet| octet.is_ascii_digit() || octet == b'.');
    !last.starts_with("rpz-") && !is_address && !name.contains(['*', '/', ':', '|', '^'])
}

/// As master files spell it: what they give a meaning to is escaped, beside what the store escapes itself.
fn escaped(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    let mut is_escaped = false;
    for letter in name.chars() {
        if !is_escaped && matches!(letter, '"' | ';' | '(' | ')' | '@' | '$' | '#' | '!') {
            out.push('\\');
        }
        is_escaped = letter == '\\' && !is_escaped;
        out.push(letter);
    }
    out
}

/// A prefix as policy zones spell it: its length, then the address from its end.
fn prefix_owner(net: &IpNet) -> Option<String> {
    let bits = net.prefix_len();
    match net.trunc().addr() {
        IpAddr::V4(address) => {
            let [a, b, c, d] = address.octets();
            Some(format!("{bits}.{d}.{c}.{b}.{a}"))
        }
        // Nobody compares an answer's address in that form.
        IpAddr::V6(address) if address.to_ipv4_mapped().is_some() => None,
        IpAddr::V6(address) => {
            let words = address.segments();
            // The longest run of zeros, the first of several.
            let run_at = |at: usize| words.iter().skip(at).take_while(|word| **word == 0).count();
            let (start, len) = (0..words.len()).map(|at| (at, run_at(at))).rev().max_by_key(|(_, len)| *len)?;
            let mut labels = Vec::new();
            for (at, word) in words.iter().enumerate() {
                match at {
                    _ if len >= 2 && at == start => labels.push("zz".to_owned()),
                    _ if len >= 2 && (start..start + len).contains(&at) => {}
                    _ => labels.push(format!("{word:x}")),
                }
            }
            labels.reverse();
            Some(format!("{bits}.{}", labels.join(".")))
        }
    }
}

impl Writer for ZoneWriter {
    fn begin(&mut self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "$TTL {TTL_S}\n$ORIGIN {APEX}.")?;
        writeln!(out, "@ IN SOA localhost. hostmaster.localhost. {} 3600 600 86400 {TTL_S}", self.serial)?;
        writeln!(out, "@ IN NS localhost.")
    }

    fn name(&mut self, name: &str, class: ClassId, target: Option<&str>, out: &mut dyn Write) -> io::Result<()> {
        if name != self.name {
            self.flush(out)?;
            name.clone_into(&mut self.name);
        }
        let Some(said) = self.said(class) else { return Ok(()) };
        if name.is_empty() || !said.clients.is_empty() {
            return self.clients(name, &said, target, out);
        }
        if !is_owner(name) {
            self.left.leave_out(SPELLING);
            return Ok(());
        }
        let owners = [(said.itself, name.to_owned()), (said.below, format!("*.{name}"))];
        let mut gathered = Gathered { class, rank: said.rank, lines: [None, None] };
        for ((is_said, owner), place) in owners.iter().zip(&mut gathered.lines) {
            if !is_said {
                continue;
            }
            let Some(lines) = lines(owner, &said.action, target) else {
                self.left.leave_out(SPELLING);
                return Ok(());
            };
            *place = Some(lines);
        }
        self.gathered.push(gathered);
        Ok(())
    }

    fn pattern(&mut self, _: &str, _: ClassId, _: Option<&str>, _: &mut dyn Write) -> io::Result<()> {
        self.left.leave_out(PATTERN);
        Ok(())
    }

    fn address(&mut self, net: &IpNet, class: ClassId, target: Option<&str>, out: &mut dyn Write) -> io::Result<()> {
        self.flush(out)?;
        let Some(said) = self.said(class) else { return Ok(()) };
        let owner = prefix_owner(net).filter(|_| said.clients.is_empty()).map(|owner| format!("{owner}.rpz-ip"));
        match owner.and_then(|owner| lines(&owner, &said.action, target)) {
            Some(lines) => {
                self.count(&said);
                out.write_all(lines.as_bytes())
            }
            None => {
                self.left.leave_out(if said.clients.is_empty() { SPELLING } else { CONDITION });
                Ok(())
            }
        }
    }

    fn rewrite(&mut self, _: &IpRewrite, _: &mut dyn Write) -> io::Result<()> {
        self.left.leave_out(REWRITE);
        Ok(())
    }

    fn end(&mut self, out: &mut dyn Write) -> io::Result<()> {
        self.flush(out)
    }

    fn left(self: Box<Self>) -> Left {
        self.left
    }
}

impl ZoneWriter {
    /// A rule on every name that some clients ask for is said by their addresses; on one name alone there is no word for it.
    fn clients(&mut self, name: &str, said: &Said, target: Option<&str>, out: &mut dyn Write) -> io::Result<()> {
        if !name.is_empty() {
            self.left.leave_out(CONDITION);
            return Ok(());
        }
        if said.clients.is_empty() || !said.itself || !said.below {
            self.left.leave_out(ROOT);
            return Ok(());
        }
        let owners: Option<Vec<String>> = said.clients.iter().map(prefix_owner).collect();
        let owners = owners.unwrap_or_default().into_iter().map(|owner| format!("{owner}.rpz-client-ip"));
        let all: Option<Vec<String>> = owners.map(|owner| lines(&owner, &said.action, target)).collect();
        match all.filter(|all| !all.is_empty()) {
            Some(all) => {
                self.count(said);
                out.write_all(all.concat().as_bytes())
            }
            None => {
                self.left.leave_out(SPELLING);
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_spelled_from_their_end() {
        for (net, owner) in [
            ("192.0.2.0/24", "24.0.2.0.192"),
            ("192.0.2.1/32", "32.1.2.0.192"),
            ("2001:db8::/32", "32.zz.db8.2001"),
            ("2001:db8:0:1::57/128", "128.57.zz.1.0.db8.2001"),
            ("2001:db8:3:4:5:6:7:8/128", "128.8.7.6.5.4.3.db8.2001"),
            ("::1/128", "128.1.zz"),
            ("::/0", "0.zz"),
        ] {
            assert_eq!(prefix_owner(&net.parse().unwrap()).as_deref(), Some(owner), "{net}");
        }
        assert_eq!(prefix_owner(&"::ffff:192.0.2.1/128".parse().unwrap()), None);
    }

    #[test]
    fn what_master_files_give_a_meaning_to_is_escaped_once() {
        assert_eq!(escaped(r#"a;b\.c\\d.$x.@"#), r#"a\;b\.c\\d.\$x.\@"#);
    }

    #[test]
    fn a_target_that_would_be_read_as_an_action_is_no_target() {
        let action = Action::Target { all: false };
        assert_eq!(lines("a.example", &action, Some("b.example")).unwrap(), "a.example CNAME b.example.\n");
        for target in ["", "*.b.example", "rpz-passthru", "a.example"] {
            assert_eq!(lines("a.example", &action, Some(target)), None, "{target}");
        }
    }
}
