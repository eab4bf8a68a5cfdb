//! Takes the steps of a scenario.

use crate::Failure;
use crate::appliance::{Answer, Appliance, CLIENT_DEFAULT, Sent};
use crate::compare::differences;
use crate::message::{Edns, Message, OPTION_COOKIE, hex, parse_hex};
use crate::scenario::{Adjust, Entry, Event, Match, Scenario, Server, Step};
use corewall::decide::Transport;
use corewall::limits;

/// Answers from ranges that one step may lead to: past it, something goes round in circles.
const ANSWERS_MAX: usize = 1_000;

/// How strictly steps are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strictness {
    /// As README.md says.
    Full,
    /// For scenarios of other programs: answers come in any order and need not all be looked at, servers may be given up
    /// earlier than their scenario expects.
    Foreign,
}

/// Runs a scenario to its end or its first failure.
pub fn run(scenario: &Scenario, strictness: Strictness) -> Result<(), Failure> {
    let fail = |line: usize, text: String| Failure { file: scenario.file.clone(), line, text };
    let name = scenario.file.file_name().unwrap_or_default().to_string_lossy();
    let appliance = Appliance::start(&name, &scenario.config, &scenario.files).map_err(|text| fail(1, text))?;
    let mut run = Run { scenario, strictness, appliance };
    for (index, step) in scenario.steps.iter().enumerate() {
        let next = scenario.steps.get(index + 1).map(|next| next.number);
        let result = run.take(step).and_then(|()| run.answer_from_ranges(next));
        result.and_then(|()| run.appliance.check_balance()).map_err(|text| fail(step.line, text))?;
    }
    let last = scenario.steps.last().map_or(1, |step| step.line);
    run.finish().map_err(|text| fail(last, text))
}

struct Run<'a> {
    scenario: &'a Scenario,
    strictness: Strictness,
    appliance: Appliance,
}

impl<'a> Run<'a> {
    fn take(&mut self, step: &Step) -> Result<(), String> {
        let appliance = &mut self.appliance;
        match &step.event {
            Event::Nothing => Ok(()),
            Event::Query { entry, client } => {
                let transport = if entry.matches.contains(&Match::Tcp) { Transport::Tcp } else { Transport::Udp };
                let wire = entry.raw.clone().map_or_else(|| entry.draft.compose(false), Ok)?;
                appliance.ask(client.unwrap_or(CLIENT_DEFAULT), transport, &wire)
            }
            Event::CheckAnswer { entry, client } => self.check_answer(entry, *client),
            Event::CheckNoAnswer => match appliance.answers.first() {
                None => Ok(()),
                Some(Answer { wire, .. }) => Err(format!("there is an answer:\n{}", show(wire))),
            },
            Event::CheckDrop(wanted) => match (appliance.drops.is_empty(), wanted) {
                (true, _) => Err(format!("nothing was dropped{}", self.answers_text())),
                (false, wanted) => {
                    let got = appliance.drops.remove(0);
                    match wanted {
                        Some(wanted) if *wanted != got => Err(format!("dropped because of {got}, wanted {wanted}")),
                        _ => Ok(()),
                    }
                }
            },
            Event::CheckOutQuery { entry, server } => self.check_out_query(entry, *server),
            Event::CheckNoOutQuery => match appliance.sent.iter().find(|sent| !sent.is_checked) {
                None => Ok(()),
                Some(sent) => Err(format!("there is a message to {}:\n{}", sent.address, show(&sent.wire))),
            },
            Event::CheckOutCount(wanted) => match appliance.sent.len() as u64 {
                got if got == *wanted => Ok(()),
                got => Err(format!("{got} messages to upstream servers, wanted {wanted}{}", self.sent_text())),
            },
            Event::CheckCounter(name, wanted) => match appliance.counter(name) {
                Some(got) if got == *wanted => Ok(()),
                Some(got) => Err(format!("counter {name} is {got}, wanted {wanted}")),
                None => Err(format!("there is no counter {name}")),
            },
            Event::Reply { entry, server, late } => self.reply(entry, *server, *late),
            Event::Timeout { server } => self.time_out(step.number, *server),
            Event::Error { server, why } => {
                let is_wanted =
                    |sent: &Sent| appliance.is_awaited(sent) && server.is_none_or(|server| server.is(sent.address));
                match appliance.sent.iter().rposition(is_wanted) {
                    Some(place) => appliance.fail(place, *why),
                    None if self.strictness == Strictness::Foreign => Ok(()),
                    None => Err("nothing waits for an answer".to_owned()),
                }
            }
            Event::CheckServer { server, is_down } => match appliance.is_down(*server) {
                Some(got) if got == *is_down => Ok(()),
                Some(got) => Err(format!("{server:?} is {}", if got { "down" } else { "up" })),
                None => Err(format!("{server:?} is not known")),
            },
            Event::TimePasses(us) => self.pass(step.number, *us),
            Event::Flush(what) => {
                appliance.flush(what);
                Ok(())
            }
            Event::Restart(seconds) => appliance.restart(*seconds),
            Event::Reload { config, files } => appliance.reload(config.as_deref(), files),
            Event::Live(update) => appliance.change_live(update),
            Event::Store(state) => {
                appliance.state = *state;
                Ok(())
            }
        }
    }

    fn check_answer(&mut self, entry: &Entry, client: Option<std::net::IpAddr>) -> Result<(), String> {
        let is_to = |answer: &Answer| client.is_none_or(|client| client == answer.client);
        let look = |answer: &Answer| match Message::parse(&answer.wire) {
            Ok(got) => differences(entry, &got, answer.transport),
            Err(error) => vec![format!("the answer cannot be read: {error}")],
        };
        let answers = &mut self.appliance.answers;
        let oldest = answers.iter().position(is_to);
        let place = match self.strictness {
            Strictness::Full => oldest,
            Strictness::Foreign => answers.iter().position(|answer| look(answer).is_empty()).or(oldest),
        };
        let Some(place) = place else {
            return Err(format!("no answer came{}", self.waiting_text()));
        };
        let answer = answers.remove(place);
        let found = look(&answer);
        match found.is_empty() {
            true => Ok(()),
            false => Err(format!("{}\n{}", found.join("\n"), wanted_and_got(entry, &answer.wire))),
        }
    }

    fn check_out_query(&mut self, entry: &Entry, server: Option<Server>) -> Result<(), String> {
        let Some(sent) = self.appliance.sent.iter_mut().find(|sent| !sent.is_checked) else {
            return Err(format!("nothing was sent to an upstream server{}", self.answers_text()));
        };
        let mut found = match Message::parse(&sent.wire) {
            Ok(got) => differences(entry, &got, sent.transport),
            Err(error) => vec![format!("the message cannot be read: {error}")],
        };
        if let Some(server) = server.filter(|server| !server.is(sent.address)) {
            found.push(format!("it went to {}, wanted {server:?}", sent.address));
        }
        sent.is_checked = true;
        match found.is_empty() {
            true => Ok(()),
            false => Err(format!("{}\n{}", found.join("\n"), wanted_and_got(entry, &sent.wire))),
        }
    }

    fn reply(&mut self, entry: &Entry, server: Option<Server>, late: bool) -> Result<(), String> {
        let appliance = &self.appliance;
        let is_wanted = |sent: &Sent| {
            let is_from = server.is_none_or(|server| server.is(sent.address));
            let matches =
                Message::parse(&sent.wire).is_ok_and(|asked| differences(entry, &asked, sent.transport).is_empty());
            is_from && matches && appliance.is_awaited(sent) != late
        };
        match appliance.sent.iter().rposition(is_wanted) {
            Some(place) => self.answer(place, entry),
            None => Err(format!("no message to an upstream server is there to be answered{}", self.sent_text())),
        }
    }

    /// Answers by `entry` what `place` in the appliance's messages asks.
    fn answer(&mut self, place: usize, entry: &Entry) -> Result<(), String> {
        let Sent { transport, socket, wire: asked, .. } = &self.appliance.sent[place];
        let is_adjusted = |what| entry.adjusts.contains(&what);
        let mut wire = match &entry.raw {
            Some(raw) => raw.clone(),
            None => {
                let mut draft = entry.draft.clone();
                let cookie = entry.adjusts.iter().find_map(|adjust| match adjust {
                    Adjust::Cookie(server) => Some(server),
                    _ => None,
                });
                if let Some(server) = cookie {
                    let asked = Message::parse(asked)?;
                    let (client, _) = asked.cookie().ok_or("the question has no cookie to be repeated")?;
                    let cookie = [client, &parse_hex(server)?].concat();
                    if draft.edns.is_empty() {
                        draft.edns.push(Edns::default());
                    }
                    draft.edns.iter_mut().for_each(|edns| edns.options.push((OPTION_COOKIE, cookie.clone())));
                }
                if is_adjusted(Adjust::CopyQuery) {
                    let asked = Message::parse(asked)?;
                    draft.question.clear();
                    for (name, class, qtype) in asked.question {
                        draft.question.push(crate::message::parse_question(&format!("{name} {class} {qtype}"))?);
                    }
                }
                draft.compose(!is_adjusted(Adjust::Uncompressed))?
            }
        };
        if !is_adjusted(Adjust::OwnCase) {
            repeat_case(&mut wire, asked);
        }
        if let Some(place) = wire.get_mut(..2) {
            let id = asked.get(..2).unwrap_or(&[0, 0]);
            // Another id than the one that is waited for, whatever that is.
            let flip = if is_adjusted(Adjust::CopyId) { 0 } else { 0xff };
            place.copy_from_slice(&[id[0] ^ flip, id[1] ^ flip]);
        }
        let socket = match is_adjusted(Adjust::OtherSocket) {
            true => (socket + 1) % limits::SERVER_SOCKETS as u16,
            false => *socket,
        };
        let transport = match (is_adjusted(Adjust::OtherTransport), transport) {
            (false, Transport::Udp) | (true, Transport::Tcp) => Transport::Udp,
            (false, Transport::Tcp) | (true, Transport::Udp) => Transport::Tcp,
        };
        let socket = if transport == Transport::Tcp { 0 } else { socket };
        self.appliance.answer(place, socket, transport, &wire)
    }

    /// The servers of the ranges answer what they are asked while the step `number` is at hand.
    fn answer_from_ranges(&mut self, number: Option<u32>) -> Result<(), String> {
        let Some(number) = number else { return Ok(()) };
        for _ in 0..ANSWERS_MAX {
            let appliance = &self.appliance;
            let asked =
                appliance.sent.iter().enumerate().filter(|(_, sent)| !sent.is_answered && appliance.is_awaited(sent));
            let found = asked.filter_map(|(place, sent)| Some((place, self.canned(number, sent)?))).next();
            match found {
                Some((place, entry)) => self.answer(place, entry)?,
                None => return Ok(()),
            }
        }
        Err("the ranges answer for ever".to_owned())
    }

    /// What the ranges have for a message.
    fn canned(&self, number: u32, sent: &Sent) -> Option<&'a Entry> {
        let asked = Message::parse(&sent.wire).ok()?;
        let ranges = self.scenario.ranges.iter().filter(|range| {
            let is_from = range.servers.is_empty() || range.servers.iter().any(|server| server.is(sent.address));
            is_from && (range.first..=range.last).contains(&number)
        });
        ranges.flat_map(|range| &range.entries).find(|entry| differences(entry, &asked, sent.transport).is_empty())
    }

    /// Lets time pass until a message that is waited for now, to `server` if given, is not waited for any more.
    fn time_out(&mut self, number: u32, server: Option<Server>) -> Result<(), String> {
        let is_wanted = |sent: &Sent| server.is_none_or(|server| server.is(sent.address));
        let places = self.appliance.sent.iter().enumerate();
        let waiting = places.filter(|(_, sent)| is_wanted(sent) && self.appliance.is_awaited(sent));
        let waiting: Vec<usize> = waiting.map(|(place, _)| place).collect();
        if waiting.is_empty() {
            return match self.strictness {
                Strictness::Foreign => Ok(()),
                Strictness::Full => Err("nothing waits for an answer".to_owned()),
            };
        }
        while waiting.iter().all(|&place| self.appliance.is_awaited(&self.appliance.sent[place])) {
            let us = self.appliance.until_deadline().ok_or("what is waited for has no deadline")?;
            self.appliance.pass(us)?;
            self.answer_from_ranges(Some(number))?;
        }
        Ok(())
    }

    fn pass(&mut self, number: u32, mut us: u64) -> Result<(), String> {
        while let Some(step) = self.appliance.until_deadline().filter(|step| *step <= us) {
            self.appliance.pass(step)?;
            us -= step;
            self.answer_from_ranges(Some(number))?;
        }
        self.appliance.pass(us)
    }

    fn finish(&mut self) -> Result<(), String> {
        if self.strictness == Strictness::Full
            && let Some(Answer { wire, .. }) = self.appliance.answers.first()
        {
            return Err(format!("no step has looked at an answer:\n{}", show(wire)));
        }
        self.appliance.finish()
    }

    fn answers_text(&self) -> String {
        let answers = self.appliance.answers.iter().map(|answer| format!("\n\nan answer:\n{}", show(&answer.wire)));
        answers.collect()
    }

    fn sent_text(&self) -> String {
        let sent = self.appliance.sent.iter().map(|sent| {
            let state = if self.appliance.is_awaited(sent) { "waits" } else { "is over" };
            format!("\n\nto {} over {:?}, {state}:\n{}", sent.address, sent.transport, show(&sent.wire))
        });
        sent.collect()
    }

    fn waiting_text(&self) -> String {
        let drops = self.appliance.drops.iter().map(|reason| format!("\ndropped: {reason}")).collect::<String>();
        let waits = self.appliance.sent.iter().filter(|sent| self.appliance.is_awaited(sent)).map(|sent| {
            format!("\n\n{} has not answered over {:?}:\n{}", sent.address, sent.transport, show(&sent.wire))
        });
        drops + &waits.collect::<String>()
    }
}

/// Spells the first name of an answer as the question did, as servers do, if it is the same otherwise.
fn repeat_case(answer: &mut [u8], asked: &[u8]) {
    let start = limits::HEADER_BYTES;
    let mut end = start;
    while let Some(label_bytes) = asked.get(end).filter(|bytes| **bytes > 0) {
        end += 1 + usize::from(*label_bytes);
    }
    if let (Some(name), Some(asked)) = (answer.get_mut(start..end), asked.get(start..end))
        && name.eq_ignore_ascii_case(asked)
    {
        name.copy_from_slice(asked);
    }
}

fn show(wire: &[u8]) -> String {
    match Message::parse(wire) {
        Ok(message) => message.to_string(),
        Err(error) => format!("{error}: {}", hex(wire)),
    }
}

fn wanted_and_got(entry: &Entry, wire: &[u8]) -> String {
    let wanted = match &entry.raw {
        Some(raw) => show(raw),
        None => entry.message.to_string(),
    };
    let words: Vec<String> = entry.matches.iter().map(|word| format!("{word:?}")).collect();
    format!("--- wanted (compared: {})\n{wanted}--- got\n{}", words.join(" "), show(wire))
}
