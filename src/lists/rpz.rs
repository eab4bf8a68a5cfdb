//! Response policy zones in master file format.
//!
//! An owner name less the zone's origin is the trigger, the record is the action. Lists often lack what a zone must have
//! (SOA, origin), so that both are optional here. Invariant: a trigger or an action that cannot be honoured is refused or
//! counted as not applicable, never weakened to another.

use corewall_sharding::name::{Name, NameError};
use corewall_sharding::rule::{
    AliasLabels, Answer, BlockMode, Class, ClientMatch, Condition, Kind, Rule, RuleKey, Scope,
};
use domain::base::iana::Rtype;
use ipnet::IpNet;

use super::names::is_address_like;
use super::records::{read_ttl, read_type, read_zone_name, record};
use super::report::{RefuseReason, SkipReason};
use super::rpz_prefix::read_prefix;
use super::sink::{Sink, Sinkholes};
use super::zone::{Entry, Progress};

/// What is known of the zone so far.
#[derive(Default)]
pub struct ZoneReader {
    entry: Entry,
    /// The line at which the entry began.
    entry_line: u64,
    /// Appended to relative names: `$ORIGIN`, else the owner of the SOA record.
    origin: Option<Name>,
    /// The zone's own name: what is cut off an owner to get its trigger.
    apex: Option<Name>,
    /// Whether the apex is the SOA's owner, not just the first `$ORIGIN`, which may be a parent of it.
    apex_is_certain: bool,
    owner: Option<Name>,
    ttl_s: Option<u32>,
}

/// The triggers by the label that ends them.
enum Trigger {
    Name(Name, Scope),
    /// Every question of the clients in a prefix.
    Clients(IpNet),
    /// Every answer with an address in a prefix.
    Address(IpNet),
    Skipped(SkipReason),
}

impl ZoneReader {
    /// Reads one line.
    pub fn line(&mut self, line: &[u8], sink: &mut Sink<'_>) {
        let Ok(text) = std::str::from_utf8(line) else {
            self.entry.clear();
            return sink.refuse(line, RefuseReason::BadSyntax);
        };
        if !self.entry.is_open() {
            self.entry_line = sink.line;
            // Lists of other formats leave their comments behind when they are converted; no owner begins so.
            if text.starts_with('#') || text.starts_with('!') {
                return sink.comment();
            }
        }
        match self.entry.add_line(text) {
            Progress::Open => {}
            Progress::Broken => {
                self.entry.clear();
                sink.refuse(line, RefuseReason::BadSyntax);
            }
            Progress::Complete if self.entry.len() == 0 => sink.comment(),
            Progress::Complete => {
                let at = std::mem::replace(&mut sink.line, self.entry_line);
                if let Err(reason) = self.read_entry(sink) {
                    let text = self.entry.tokens_from(0).join(" ");
                    sink.refuse(text.as_bytes(), reason);
                }
                sink.line = at;
            }
        }
    }

    /// The end of the list: an entry that is still open is lost.
    pub fn finish(&mut self, sink: &mut Sink<'_>) {
        if self.entry.is_open() {
            sink.refuse(self.entry.token(0).unwrap_or_default().as_bytes(), RefuseReason::BadSyntax);
        }
    }

    fn read_entry(&mut self, sink: &mut Sink<'_>) -> Result<(), RefuseReason> {
        let first = self.entry.token(0).unwrap_or_default();
        if let Some(directive) = first.strip_prefix('$') {
            let value = self.entry.token(1).ok_or(RefuseReason::BadSyntax)?;
            match directive.to_ascii_uppercase().as_str() {
                "ORIGIN" => {
                    let origin = self.absolute(value)?;
                    self.apex.get_or_insert(origin);
                    self.origin = Some(origin);
                }
                "TTL" => self.ttl_s = Some(read_ttl(value).ok_or(RefuseReason::BadSyntax)?),
                // Neither generated nor included records are read: nothing outside the list belongs to it.
                _ => return Err(RefuseReason::UnsupportedAction),
            }
            sink.skip(SkipReason::Directive);
            return Ok(());
        }
        let mut place = 0;
        let owner = if self.entry.same_owner {
            self.owner.ok_or(RefuseReason::BadSyntax)?
        } else {
            place = 1;
            let owner = self.absolute(first)?;
            self.owner = Some(owner);
            owner
        };
        let (rtype, ttl_s, data) = self.read_type_of_entry(place)?;
        match rtype {
            Rtype::SOA => {
                // The first SOA names the zone, whatever the origin was.
                if !std::mem::replace(&mut self.apex_is_certain, true) {
                    self.apex = Some(owner);
                }
                self.origin.get_or_insert(owner);
                sink.skip(SkipReason::ZoneApex);
                Ok(())
            }
            Rtype::NS => {
                sink.skip(SkipReason::ZoneApex);
                Ok(())
            }
            _ => self.read_rule(owner, rtype, ttl_s, data, sink),
        }
    }

    /// `[TTL] [class] type` in any order of the first two; yields the place of the data.
    fn read_type_of_entry(&self, mut place: usize) -> Result<(Rtype, Option<u32>, usize), RefuseReason> {
        let mut ttl_s = self.ttl_s;
        loop {
            let token = self.entry.token(place).ok_or(RefuseReason::BadRecord)?;
            place += 1;
            if token.starts_with(|letter: char| letter.is_ascii_digit()) {
                ttl_s = Some(read_ttl(token).ok_or(RefuseReason::BadRecord)?);
            } else if !token.eq_ignore_ascii_case("IN") {
                let rtype = read_type(token).ok_or(RefuseReason::BadRecord)?;
                return Ok((rtype, ttl_s, place));
            }
        }
    }

    fn absolute(&self, text: &str) -> Result<Name, RefuseReason> {
        let origin = self.origin.unwrap_or(Name::ROOT);
        if text == "@" {
            return Ok(origin);
        }
        let name = read_zone_name(text)?;
        if is_absolute(text) {
            return Ok(name);
        }
        name.prefix_onto(name.label_count(), &origin).map_err(RefuseReason::Name)
    }

    fn read_rule(
        &self,
        owner: Name,
        rtype: Rtype,
        ttl_s: Option<u32>,
        data: usize,
        sink: &mut Sink<'_>,
    ) -> Result<(), RefuseReason> {
        let trigger = self.trigger(&owner)?;
        let (scope, clients, text) = match &trigger {
            Trigger::Name(name, scope) => (*scope, Vec::new(), name.to_string()),
            Trigger::Clients(net) => (Scope::Subtree, vec![ClientMatch::Net(*net)], net.to_string()),
            Trigger::Address(net) => (Scope::Address, Vec::new(), net.to_string()),
            Trigger::Skipped(reason) => {
                sink.skip(*reason);
                return Ok(());
            }
        };
        let condition = Some(Condition { clients, ..Condition::default() }).filter(|condition| !condition.is_empty());
        let class = |kind| Class { condition: condition.clone(), ..sink.class(kind, scope) };
        let mut target = None;
        let class = if rtype == Rtype::CNAME {
            let [text] = *self.entry.tokens_from(data).as_slice() else { return Err(RefuseReason::BadRecord) };
            let to = self.absolute(text)?;
            let mode = |mode| Class { answer: Some(Answer::Mode(mode)), ..class(Kind::Block) };
            match to.to_text().as_str() {
                "" => mode(BlockMode::Nxdomain),
                "*" => mode(BlockMode::Nodata),
                "rpz-passthru" => class(Kind::Allow),
                "rpz-drop" => mode(BlockMode::Drop),
                "rpz-tcp-only" => mode(BlockMode::TcpOnly),
                // An earlier way to say passthru.
                _ if to == owner || matches!(trigger, Trigger::Name(name, _) if to == name) => class(Kind::Allow),
                other if other.starts_with("rpz-") && to.label_count() == 1 => {
                    return Err(RefuseReason::UnsupportedAction);
                }
                other => {
                    let all = other.starts_with("*.");
                    target = Some(if all { to.suffix(to.label_count() - 1) } else { to });
                    let alias_labels = if all { AliasLabels::All } else { AliasLabels::None };
                    Class { alias_labels, ..class(Kind::Alias) }
                }
            }
        } else {
            let record = record(rtype, &self.entry.tokens_from(data), ttl_s)?;
            Class { answer: Some(Answer::Records(vec![record])), ..class(Kind::Block) }
        };
        let key = match trigger {
            Trigger::Name(name, _) => RuleKey::Name { name, target },
            Trigger::Address(net) => RuleKey::Address { net, target },
            Trigger::Clients(_) | Trigger::Skipped(_) => RuleKey::Name { name: Name::ROOT, target },
        };
        let rule = Rule { class, key };
        match rule.class.answer {
            Some(Answer::Records(_)) => sink.gather(rule, Sinkholes::Block),
            _ => sink.rule(rule, text.as_bytes()),
        }
        Ok(())
    }

    fn trigger(&self, owner: &Name) -> Result<Trigger, RefuseReason> {
        let apex = self.apex.unwrap_or(Name::ROOT);
        if !owner.is_at_or_below(&apex) {
            return Err(RefuseReason::OutOfZone);
        }
        let labels = owner.label_count() - apex.label_count();
        let Ok(trigger) = owner.prefix_onto(labels, &Name::ROOT) else {
            return Err(RefuseReason::OutOfZone);
        };
        if labels == 0 {
            // Records of the zone itself: it is no one's question.
            return Ok(Trigger::Skipped(SkipReason::ZoneApex));
        }
        match trigger.labels().last().unwrap_or_default() {
            b"rpz-nsdname" | b"rpz-nsip" => return Ok(Trigger::Skipped(SkipReason::NotApplicable)),
            b"rpz-client-ip" => return Ok(Trigger::Clients(read_prefix(trigger.labels().take(labels - 1))?)),
            b"rpz-ip" => return Ok(Trigger::Address(read_prefix(trigger.labels().take(labels - 1))?)),
            _ => {}
        }
        let (name, scope) = match trigger.labels().next() {
            Some(b"*") => (trigger.suffix(labels - 1), Scope::Below),
            _ => (trigger, Scope::Exact),
        };
        if is_address_like(name.to_text().as_bytes()) {
            return Err(RefuseReason::Address);
        }
        if name.labels().any(|label| !is_asked_for(label)) {
            return Err(RefuseReason::Name(NameError::BadCharacter));
        }
        Ok(Trigger::Name(name, scope))
    }
}

/// Labels of real names. A star inside a label is no wildcard in DNS (RFC 4592 §2.1.1), and a slash is a CIDR block in the
/// wrong place: lists hold both by mistake.
fn is_asked_for(label: &[u8]) -> bool {
    !label.iter().any(|&octet| matches!(octet, b'*' | b'/' | b':' | b'|' | b'^'))
}

fn is_absolute(text: &str) -> bool {
    let Some(rest) = text.strip_suffix('.') else { return false };
    // The dot may be escaped, by an odd number of backslashes.
    rest.bytes().rev().take_while(|&octet| octet == b'\\').count() % 2 == 0
}
