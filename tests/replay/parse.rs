//! Reads `.rpl` files. The format is told in README.md; every error names the line.

use std::path::Path;

use corewall::decide::Undelivered;
use corewall::decide::cache::Flush;
use corewall_sharding::name::Name;
use corewall_sharding::overlay::LiveUpdate;

use crate::Failure;
use crate::live;
use crate::message::{self, Edns, FLAGS, Message, OPCODES, RCODES};
use crate::scenario::{Adjust, Entry, Event, File, MATCH_ALL, Match, Range, Scenario, Server, Step, StoreState};

/// Reads a scenario.
pub fn parse(file: &Path, text: &str) -> Result<Scenario, Failure> {
    let mut parser = Parser { file, lines: text.lines().enumerate(), line: 0 };
    parser.scenario()
}

struct Parser<'a> {
    file: &'a Path,
    lines: std::iter::Enumerate<std::str::Lines<'a>>,
    line: usize,
}

impl<'a> Parser<'a> {
    fn scenario(&mut self) -> Result<Scenario, Failure> {
        let mut scenario = Scenario { file: self.file.to_owned(), ..Scenario::default() };
        scenario.config = self.text_until("CONFIG_END")?;
        while let Some((word, rest)) = self.next()? {
            match word {
                "SCENARIO_BEGIN" if !rest.is_empty() => scenario.title = rest.to_owned(),
                "SCENARIO_BEGIN" => return Err(self.fail("a scenario needs a title: SCENARIO_BEGIN what it shows")),
                "FILE_BEGIN" | "SQL_BEGIN" => scenario.files.push(self.file_content(word, rest)?),
                "RANGE_BEGIN" => scenario.ranges.push(self.range(rest)?),
                "STEP" => {
                    let step = self.step(rest)?;
                    if scenario.steps.last().is_some_and(|last| last.number >= step.number) {
                        return Err(self.fail("steps must be numbered in rising order"));
                    }
                    scenario.steps.push(step);
                }
                "SCENARIO_END" => break,
                _ => return Err(self.fail(format!("unexpected `{word}`"))),
            }
        }
        match scenario {
            _ if self.next()?.is_some() => Err(self.fail("text after SCENARIO_END")),
            Scenario { title, .. } if title.is_empty() => Err(self.fail("SCENARIO_BEGIN is missing")),
            Scenario { steps, .. } if steps.is_empty() => Err(self.fail("a scenario needs steps")),
            scenario => Ok(scenario),
        }
    }

    fn range(&mut self, bounds: &str) -> Result<Range, Failure> {
        let mut words = bounds.split_whitespace().map(str::parse::<u32>);
        let (Some(Ok(first)), Some(Ok(last)), None) = (words.next(), words.next(), words.next()) else {
            return Err(self.fail("write RANGE_BEGIN first last"));
        };
        let mut range = Range { first, last, servers: Vec::new(), entries: Vec::new() };
        loop {
            match self.next_or("RANGE_END")? {
                ("ADDRESS", server) => range.servers.push(self.check(Server::parse(server))?),
                ("ENTRY_BEGIN", "") => {
                    let entry = self.entry()?;
                    self.wants_matches(&entry)?;
                    range.entries.push(entry);
                }
                ("RANGE_END", "") => return Ok(range),
                (word, _) => return Err(self.fail(format!("unexpected `{word}` in a range"))),
            }
        }
    }

    fn step(&mut self, text: &str) -> Result<Step, Failure> {
        let line = self.line;
        let mut words = text.split_whitespace();
        let number = words.next().and_then(|number| number.parse().ok()).ok_or_else(|| self.fail("no step number"))?;
        let kind = words.next().ok_or_else(|| self.fail("the step says nothing; write STEP 1 QUERY or the like"))?;
        let arguments: Vec<&str> = words.collect();
        let client = || match arguments[..] {
            [] => Ok(None),
            ["ADDRESS", address] => {
                address.parse().map(Some).map_err(|_| self.fail_at(line, format!("`{address}` is no address")))
            }
            _ => Err(self.fail_at(line, "only ADDRESS may follow")),
        };
        let server = |arguments: &[&str]| match arguments {
            [] => Ok(None),
            ["ADDRESS", server] => Server::parse(server).map(Some).map_err(|error| self.fail_at(line, error)),
            _ => Err(self.fail_at(line, "only ADDRESS may follow")),
        };
        let none = |event: Event| match arguments[..] {
            [] => Ok(event),
            _ => Err(self.fail_at(line, "nothing may follow")),
        };
        let event = match kind {
            "QUERY" => Event::Query { client: client()?, entry: self.next_entry()? },
            "CHECK_ANSWER" => Event::CheckAnswer { client: client()?, entry: self.next_entry_with_matches()? },
            "CHECK_OUT_QUERY" => {
                Event::CheckOutQuery { server: server(&arguments)?, entry: self.next_entry_with_matches()? }
            }
            "REPLY" => {
                let late = arguments.first() == Some(&"LATE");
                let server = server(&arguments[usize::from(late)..])?;
                Event::Reply { late, server, entry: self.next_entry()? }
            }
            "CHECK_NO_ANSWER" => none(Event::CheckNoAnswer)?,
            "CHECK_NO_OUT_QUERY" => none(Event::CheckNoOutQuery)?,
            "TIMEOUT" => Event::Timeout { server: server(&arguments)? },
            "ERROR" => Event::Error { server: server(&arguments)?, why: Undelivered::Refused },
            "UNSENT" => Event::Error { server: server(&arguments)?, why: Undelivered::NoRoom },
            "CHECK_SERVER" => match arguments[..] {
                [address, state @ ("UP" | "DOWN")] => {
                    Event::CheckServer { server: self.check(Server::parse(address))?, is_down: state == "DOWN" }
                }
                _ => return Err(self.fail("write CHECK_SERVER address UP or DOWN")),
            },
            "NOTHING" => none(Event::Nothing)?,
            "CHECK_DROP" => Event::CheckDrop(arguments.first().map(|reason| (*reason).to_owned())),
            "CHECK_OUT_COUNT" => match arguments[..] {
                [count] => Event::CheckOutCount(self.number(count)?),
                _ => return Err(self.fail("write CHECK_OUT_COUNT number")),
            },
            "CHECK_COUNTER" => match arguments[..] {
                [name, value] => Event::CheckCounter(name.to_owned(), self.number(value)?),
                _ => return Err(self.fail("write CHECK_COUNTER name number")),
            },
            "TIME_PASSES" => match arguments[..] {
                ["ELAPSE", seconds] => Event::TimePasses(self.check(microseconds(seconds))?),
                _ => return Err(self.fail("write TIME_PASSES ELAPSE seconds")),
            },
            "STORE" => Event::Store(match arguments[..] {
                ["WORKS"] => StoreState::Works,
                ["COLD", "NEVER"] => StoreState::Cold(None),
                ["COLD", seconds] => StoreState::Cold(Some(self.check(microseconds(seconds))?)),
                ["ROWS_FAIL"] => StoreState::RowsFail,
                ["TARGETS_FAIL"] => StoreState::TargetsFail,
                ["PATTERNS_FAIL"] => StoreState::PatternsFail,
                _ => {
                    return Err(self.fail(
                        "write STORE WORKS, COLD seconds, COLD NEVER, ROWS_FAIL, TARGETS_FAIL or PATTERNS_FAIL",
                    ));
                }
            }),
            "RESTART" => match arguments[..] {
                [] => Event::Restart(0),
                ["ELAPSE", seconds] => Event::Restart(self.number(seconds)?),
                _ => return Err(self.fail("write RESTART, or RESTART ELAPSE seconds")),
            },
            "FLUSH" => Event::Flush(match arguments[..] {
                ["ALL"] => Flush::All,
                ["NAME", name] => Flush::Name(self.check(read_name(name))?),
                ["SUBTREE", name] => Flush::Subtree(self.check(read_name(name))?),
                _ => return Err(self.fail("write FLUSH ALL, FLUSH NAME name or FLUSH SUBTREE name")),
            }),
            "RELOAD" => {
                none(Event::Nothing)?;
                self.reload()?
            }
            "LIVE" => {
                none(Event::Nothing)?;
                self.live()?
            }
            _ => return Err(self.fail(format!("unknown step `{kind}`"))),
        };
        Ok(Step { number, line, event })
    }

    fn reload(&mut self) -> Result<Event, Failure> {
        let (mut config, mut files) = (None, Vec::new());
        loop {
            match self.next_or("RELOAD_END")? {
                ("CONFIG_BEGIN", "") => config = Some(self.text_until("CONFIG_END")?),
                (word @ ("FILE_BEGIN" | "SQL_BEGIN"), name) => files.push(self.file_content(word, name)?),
                ("RELOAD_END", "") => return Ok(Event::Reload { config, files }),
                (word, _) => return Err(self.fail(format!("unexpected `{word}` in a reload"))),
            }
        }
    }

    fn live(&mut self) -> Result<Event, Failure> {
        let mut update = LiveUpdate::default();
        loop {
            match self.next_or("LIVE_END")? {
                ("LIVE_END", "") => return Ok(Event::Live(update)),
                (word, rest) => self.check(live::read(word, rest, &mut update))?,
            }
        }
    }

    fn file_content(&mut self, begin: &str, name: &str) -> Result<File, Failure> {
        if name.is_empty() || name.contains(['/', ' ']) {
            return Err(self.fail(format!("write {begin} and a file name without folders")));
        }
        let is_database = begin == "SQL_BEGIN";
        let text = self.text_until(if is_database { "SQL_END" } else { "FILE_END" })?;
        Ok(File { name: name.to_owned(), text, is_database })
    }

    fn next_entry(&mut self) -> Result<Entry, Failure> {
        match self.next_or("ENTRY_BEGIN")? {
            ("ENTRY_BEGIN", "") => self.entry(),
            (word, _) => Err(self.fail(format!("ENTRY_BEGIN must follow, not `{word}`"))),
        }
    }

    fn next_entry_with_matches(&mut self) -> Result<Entry, Failure> {
        let entry = self.next_entry()?;
        self.wants_matches(&entry)?;
        Ok(entry)
    }

    /// An entry that is compared with nothing would let everything pass.
    fn wants_matches(&self, entry: &Entry) -> Result<(), Failure> {
        match entry.matches.is_empty() && entry.ede.is_none() {
            true => Err(self.fail_at(entry.line, "MATCH is missing: say what must be equal")),
            false => Ok(()),
        }
    }

    fn entry(&mut self) -> Result<Entry, Failure> {
        let mut entry = Entry { line: self.line, ..Entry::default() };
        let mut section = None;
        loop {
            let (word, rest) = self.next_or("ENTRY_END")?;
            match word {
                "ENTRY_END" => break,
                "MATCH" => {
                    for word in rest.split_whitespace() {
                        self.check(read_match(word, &mut entry))?;
                    }
                }
                "ADJUST" => {
                    for word in rest.split_whitespace() {
                        entry.adjusts.insert(self.check(read_adjust(word))?);
                    }
                }
                "REPLY" => {
                    for word in rest.split_whitespace() {
                        self.check(read_header(word, &mut entry))?;
                    }
                }
                "EDNS" => entry.draft.edns.push(self.check(read_edns(rest))?),
                "EDE" => {
                    let (code, text) = rest.split_once(' ').map_or((rest, None), |(code, text)| (code, Some(text)));
                    entry.ede = Some((self.number(code)? as u16, text.map(|text| text.trim().to_owned())));
                }
                "HEX_BEGIN" => {
                    let hex = self.text_until("HEX_END")?;
                    let hex: String = hex.lines().map(|line| line.split(';').next().unwrap_or_default()).collect();
                    entry.raw = Some(self.check(message::parse_hex(&hex))?);
                }
                "SECTION" => {
                    section = Some(match rest {
                        "QUESTION" => None,
                        "ANSWER" => Some(0),
                        "AUTHORITY" => Some(1),
                        "ADDITIONAL" => Some(2),
                        _ => return Err(self.fail(format!("unknown section `{rest}`"))),
                    });
                }
                _ => {
                    let line = format!("{word} {rest}");
                    match section {
                        Some(None) => entry.draft.question.push(self.check(message::parse_question(&line))?),
                        Some(Some(place)) => {
                            let section: &mut Vec<_> = &mut entry.draft.sections[place];
                            section.push(self.check(message::parse_record(&line))?);
                        }
                        None => return Err(self.fail(format!("unexpected `{word}` before SECTION"))),
                    }
                }
            }
        }
        self.finish(&mut entry)?;
        Ok(entry)
    }

    fn finish(&self, entry: &mut Entry) -> Result<(), Failure> {
        let wire = match &entry.raw {
            Some(_) => return Ok(()),
            None => entry.draft.compose(false).map_err(|error| self.fail_at(entry.line, error))?,
        };
        entry.message = Message::parse(&wire).map_err(|error| self.fail_at(entry.line, error))?;
        Ok(())
    }

    /// The next line that says something, in its first word and the rest.
    fn next(&mut self) -> Result<Option<(&'a str, &'a str)>, Failure> {
        for (index, line) in self.lines.by_ref() {
            self.line = index + 1;
            let line = without_comment(line).trim();
            if !line.is_empty() {
                let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
                return Ok(Some((word, rest.trim())));
            }
        }
        Ok(None)
    }

    fn next_or(&mut self, wanted: &str) -> Result<(&'a str, &'a str), Failure> {
        self.next()?.ok_or_else(|| self.fail(format!("the file ends before {wanted}")))
    }

    /// The lines as they stand, until one that is `end` alone.
    fn text_until(&mut self, end: &str) -> Result<String, Failure> {
        let mut text = String::new();
        for (index, line) in self.lines.by_ref() {
            self.line = index + 1;
            if line.trim() == end {
                return Ok(text);
            }
            text.push_str(line);
            text.push('\n');
        }
        Err(self.fail(format!("the file ends before {end}")))
    }

    fn number(&self, text: &str) -> Result<u64, Failure> {
        text.parse().map_err(|_| self.fail(format!("`{text}` is no number")))
    }

    fn check<T>(&self, result: Result<T, String>) -> Result<T, Failure> {
        result.map_err(|error| self.fail(error))
    }

    fn fail(&self, text: impl Into<String>) -> Failure {
        self.fail_at(self.line, text)
    }

    fn fail_at(&self, line: usize, text: impl Into<String>) -> Failure {
        Failure { file: self.file.to_owned(), line, text: text.into() }
    }
}

/// The line up to a `;` that does not stand in quotes.
fn without_comment(line: &str) -> &str {
    let mut quoted = false;
    let mut escaped = false;
    for (place, c) in line.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => quoted = !quoted,
            ';' if !quoted => return &line[..place],
            _ => {}
        }
    }
    line
}

fn read_name(text: &str) -> Result<Name, String> {
    Name::from_text(text).map_err(|error| format!("`{text}` is no name: {error}"))
}

fn microseconds(seconds: &str) -> Result<u64, String> {
    let wrong = || format!("`{seconds}` is no number of seconds");
    let (whole, fraction) = seconds.split_once('.').unwrap_or((seconds, "0"));
    let whole: u64 = whole.parse().map_err(|_| wrong())?;
    if fraction.is_empty() || fraction.len() > 6 || !fraction.bytes().all(|c| c.is_ascii_digit()) {
        return Err(wrong());
    }
    let fraction: u64 = format!("{fraction:0<6}").parse().map_err(|_| wrong())?;
    Ok(whole * 1_000_000 + fraction)
}

/// Reads a word of a MATCH line.
pub fn read_match(word: &str, entry: &mut Entry) -> Result<(), String> {
    let bytes = |text: &str| text.parse().map_err(|_| format!("`{word}` says no number of bytes"));
    let found = match word.split_once('=') {
        Some(("ede", code)) => {
            entry.ede = Some((code.parse().map_err(|_| format!("`{word}` says no INFO-CODE"))?, None));
            return Ok(());
        }
        Some(("bytes_max", number)) => Match::BytesMax(bytes(number)?),
        Some(("bytes", number)) => Match::Bytes(bytes(number)?),
        Some(("cookie", server)) => Match::Cookie(server_cookie(server)?),
        _ => match word {
            "all" => {
                entry.matches.extend(MATCH_ALL);
                return Ok(());
            }
            "opcode" => Match::Opcode,
            "rcode" => Match::Rcode,
            "flags" => Match::Flags,
            "qname" => Match::Qname,
            "qtype" => Match::Qtype,
            "subdomain" => Match::Subdomain,
            "question" => Match::Question,
            "answer" => Match::Answer,
            "authority" => Match::Authority,
            "additional" => Match::Additional,
            "ttl" => Match::Ttl,
            "case" => Match::Case,
            "edns" => Match::Edns,
            "noedns" => Match::NoEdns,
            "noede" => Match::NoEde,
            "ednsdata" => Match::EdnsData,
            "DO" => Match::DnssecOk,
            "AD" => Match::AuthenticData,
            "CD" => Match::CheckingDisabled,
            "RD" => Match::RecursionDesired,
            "UDP" => Match::Udp,
            "TCP" => Match::Tcp,
            "nocookie" => Match::NoCookie,
            "mixed_case" => Match::MixedCase,
            "raw" => Match::Raw,
            "any_order" => Match::AnyOrder,
            _ => return Err(format!("unknown MATCH `{word}`")),
        },
    };
    entry.matches.insert(found);
    Ok(())
}

fn read_adjust(word: &str) -> Result<Adjust, String> {
    if let Some(server) = word.strip_prefix("cookie=") {
        return server_cookie(server).map(Adjust::Cookie);
    }
    Ok(match word {
        "own_case" => Adjust::OwnCase,
        "copy_id" => Adjust::CopyId,
        "copy_query" => Adjust::CopyQuery,
        "other_socket" => Adjust::OtherSocket,
        "other_transport" => Adjust::OtherTransport,
        "uncompressed" => Adjust::Uncompressed,
        _ => return Err(format!("unknown ADJUST `{word}`")),
    })
}

/// The server's part of a cookie in hexadecimal; `-` for none.
fn server_cookie(text: &str) -> Result<String, String> {
    let text = if text == "-" { "" } else { text };
    message::parse_hex(text).map(|octets| message::hex(&octets))
}

/// Reads a word of a REPLY line: a flag, an RCODE or an OPCODE.
pub fn read_header(word: &str, entry: &mut Entry) -> Result<(), String> {
    let draft = &mut entry.draft;
    let number = |text: &str| text.parse::<u16>().map_err(|_| format!("`{word}` says no number"));
    if let Some((_, bit)) = FLAGS.iter().find(|(name, _)| *name == word) {
        draft.flags |= bit;
    } else if let Some((_, rcode)) = RCODES.iter().find(|(name, _)| *name == word) {
        draft.rcode = *rcode;
    } else if let Some((_, opcode)) = OPCODES.iter().find(|(name, _)| *name == word) {
        draft.opcode = *opcode;
    } else {
        match word.split_once('=') {
            Some(("ID", id)) => draft.id = number(id)?,
            Some(("OPCODE", opcode)) => draft.opcode = number(opcode)? as u8,
            Some(("RCODE", rcode)) => draft.rcode = number(rcode)?,
            _ if word == "DO" => draft.edns.push(Edns { flags: Edns::DO, ..Edns::default() }),
            _ => return Err(format!("unknown flag, RCODE or OPCODE `{word}`")),
        }
    }
    Ok(())
}

fn read_edns(text: &str) -> Result<Edns, String> {
    let mut edns = Edns::default();
    let mut words = text.split_whitespace();
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("a value must follow `{word}`"));
        let wrong = |value: &str| format!("`{word} {value}` cannot be read");
        match word {
            "DO" => edns.flags |= Edns::DO,
            "SIZE" => edns.size = value().and_then(|value| value.parse().map_err(|_| wrong(value)))?,
            "VERSION" => edns.version = value().and_then(|value| value.parse().map_err(|_| wrong(value)))?,
            "FLAGS" => edns.flags |= value().and_then(|v| u16::from_str_radix(v, 16).map_err(|_| wrong(v)))?,
            "OPTION" => {
                let code = value().and_then(|value| value.parse().map_err(|_| wrong(value)))?;
                // An option without data is written as `-`.
                let data = value()?;
                edns.options.push((code, if data == "-" { Vec::new() } else { message::parse_hex(data)? }));
            }
            _ => return Err(format!("unknown EDNS word `{word}`")),
        }
    }
    Ok(edns)
}
