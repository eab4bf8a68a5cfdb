//! The closed loop: a window of questions is always out, each answer is checked and makes room for the next question.
//!
//! Invariant: every question sent ends in exactly one of answered, wrong or lost; an answer that fits no open question is
//! counted as stray and changes nothing. With a rate the loop is open as far as the window reaches: latency counts from the
//! moment when a question was due, so a server that holds up the next questions is not spared their wait; `window_full` tells
//! whether the window ever held one up.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::answer::{self, Wrong};
use crate::arrivals::Arrivals;
use crate::datagrams::{self, BATCH_MAX, Batch, Wait};
use crate::latency::Latencies;
use crate::process::{self, Memory};
use crate::questions::{Expect, Questions};

/// Open questions of one socket: the slot's number must leave room for a round in the 16-bit id.
pub const WINDOW_MAX: usize = 4_096;
/// Client sockets; each has its own port and so may reach another worker.
pub const SOCKETS_MAX: usize = 256;
/// Wrong answers shown in words; the rest is only counted.
const WRONG_SHOWN_MAX: usize = 8;
/// How often overdue questions are looked for.
const SWEEP_EVERY: Duration = Duration::from_millis(20);
/// One wait for answers at most.
const WAIT_MAX: Duration = Duration::from_millis(1);

/// When a run ends.
#[derive(Clone, Copy, Debug)]
pub enum Until {
    /// After this time.
    Elapsed(Duration),
    /// When each question has been asked once.
    EachAsked,
    /// When each has been asked once, or after this time: for names that may not come again.
    EachAskedWithin(Duration),
}

/// How to ask.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// Where the server listens.
    pub server: SocketAddr,
    /// Questions open at a time over all sockets.
    pub window: usize,
    /// Client sockets.
    pub sockets: usize,
    /// Datagrams in one system call.
    pub batch: usize,
    /// Questions a second; none means as many as the window lets through.
    pub rate: Option<u64>,
    /// After this a question is lost.
    pub timeout: Duration,
    /// Spins while waiting for answers instead of sleeping: a sleeping client must be woken by the server's CPU.
    pub spin: bool,
    /// Any answer to the question is right.
    pub any_answer: bool,
    /// Process whose cost is measured, with those that it has started when it leads a process group.
    pub server_pid: Option<u32>,
    /// Only its threads whose name begins so.
    pub server_thread: Option<String>,
    /// Ends of the phases that are told apart, from the first question on; what comes later is a last phase.
    pub phase_ends: Vec<Duration>,
}

/// What a run found in one phase, to which a question belongs by the moment when it was due.
#[derive(Clone, Debug, Default, Serialize)]
pub struct PhaseReport {
    /// Right answers.
    pub answered: u64,
    /// Wrong answers.
    pub wrong: u64,
    /// Questions without an answer in time.
    pub lost: u64,
    /// Latency in microseconds.
    pub us_p50: f64,
    /// Latency in microseconds.
    pub us_p99: f64,
    /// Latency in microseconds.
    pub us_p999: f64,
    /// Latency in microseconds.
    pub us_max: f64,
}

/// What a run found.
#[derive(Clone, Debug, Default, Serialize)]
pub struct LoadReport {
    /// Seconds from the first question to the last one sent.
    pub seconds: f64,
    /// Questions sent.
    pub sent: u64,
    /// Right answers.
    pub answered: u64,
    /// Wrong answers.
    pub wrong: u64,
    /// Wrong answers by reason.
    pub wrong_reasons: BTreeMap<Wrong, u64>,
    /// The first wrong answers in words.
    pub wrong_examples: Vec<String>,
    /// Questions without an answer in time.
    pub lost: u64,
    /// Datagrams that answered no open question: late, doubled or forged.
    pub stray: u64,
    /// Times that a question was due and found no room in the window: above none, the loop was not open.
    pub window_full: u64,
    /// Microseconds from when a question was due until it was sent, which is this tool's own share of its latency.
    pub us_late_p99: f64,
    /// Answers a second while questions were sent.
    pub qps: f64,
    /// Latency in microseconds.
    pub us_p50: f64,
    /// Latency in microseconds.
    pub us_p99: f64,
    /// Latency in microseconds.
    pub us_p999: f64,
    /// Latency in microseconds.
    pub us_max: f64,
    /// The server's CPU microseconds per answer.
    pub server_cpu_us_per_answer: Option<f64>,
    /// The server's share of one core, 1 being all of it.
    pub server_cores_used: Option<f64>,
    /// The server's memory after the run.
    pub server_memory: Option<Memory>,
    /// This tool's CPU microseconds per answer: where it is above the server's, the server was not saturated.
    pub client_cpu_us_per_answer: f64,
    /// The phases, when there was more than one.
    pub phases: Vec<PhaseReport>,
}

/// Asks `questions` as `options` say. The calling thread does all the work; pin it first.
pub fn run(questions: &Questions, options: &LoadOptions, until: Until) -> io::Result<LoadReport> {
    run_arriving(questions, options, until, options.rate.map(Arrivals::evenly))
}

/// The same with due times of the caller's choice; none means as many questions as the window lets through.
pub fn run_arriving(
    questions: &Questions,
    options: &LoadOptions,
    until: Until,
    arrivals: Option<Arrivals>,
) -> io::Result<LoadReport> {
    let mut load = Load::new(questions, options, arrivals)?;
    let client_before = process::cpu_ns(std::process::id(), None)?;
    let cpu_of = |pid| match &options.server_thread {
        Some(thread) => process::cpu_ns(pid, Some(thread)),
        None => process::server_cpu_ns(pid),
    };
    let server_cpu = || options.server_pid.map(cpu_of).transpose();
    let server_before = server_cpu()?;
    let started = Instant::now();
    load.ask_until(started, until)?;
    let seconds = started.elapsed().as_secs_f64();
    // Those that come afterwards, and the wait for lost ones, say nothing of how many a second the server answers.
    let in_time = load.report.answered + load.report.wrong;
    load.drain(started)?;
    let elapsed = started.elapsed().as_secs_f64();
    let server_after = server_cpu()?;
    let client_ns = process::cpu_ns(std::process::id(), None)? - client_before;
    let server_ns = server_after.zip(server_before).map(|(after, before)| after.saturating_sub(before) as f64);

    let mut report = load.report;
    if !options.phase_ends.is_empty() {
        report.phases = load.phases.into_iter().map(Phase::into_report).collect();
    }
    let answers = (report.answered + report.wrong) as f64;
    report.seconds = seconds;
    report.qps = in_time as f64 / seconds;
    report.us_p50 = load.latencies.us_at(0.5);
    report.us_p99 = load.latencies.us_at(0.99);
    report.us_p999 = load.latencies.us_at(0.999);
    report.us_max = load.latencies.us_max();
    report.us_late_p99 = load.lateness.us_at(0.99);
    report.client_cpu_us_per_answer = client_ns as f64 / 1e3 / answers.max(1.0);
    report.server_cpu_us_per_answer = server_ns.map(|ns| ns / 1e3 / answers.max(1.0));
    report.server_cores_used = server_ns.map(|ns| ns / 1e9 / elapsed);
    report.server_memory = options.server_pid.map(process::memory).transpose()?;
    Ok(report)
}

#[derive(Clone, Copy, Default)]
struct Slot {
    id: u16,
    is_open: bool,
    question: u32,
    /// When it should have been sent: latency counts from here.
    due_ns: u64,
    sent_ns: u64,
}

/// One client socket and its open questions.
struct Client {
    slots: Vec<Slot>,
    free: Vec<u16>,
}

/// One phase as it is counted.
#[derive(Default)]
struct Phase {
    report: PhaseReport,
    latencies: Latencies,
}

impl Phase {
    fn into_report(self) -> PhaseReport {
        let Self { report, latencies } = self;
        PhaseReport {
            us_p50: latencies.us_at(0.5),
            us_p99: latencies.us_at(0.99),
            us_p999: latencies.us_at(0.999),
            us_max: latencies.us_max(),
            ..report
        }
    }
}

struct Load<'a> {
    questions: &'a Questions,
    options: &'a LoadOptions,
    arrivals: Option<Arrivals>,
    sockets: Vec<UdpSocket>,
    clients: Vec<Client>,
    batch: Batch,
    batch_slots: Vec<u16>,
    slot_bits: u32,
    /// Questions asked so far, which is also the place of the next one.
    next: usize,
    report: LoadReport,
    latencies: Latencies,
    lateness: Latencies,
    phases: Vec<Phase>,
}

impl<'a> Load<'a> {
    fn new(questions: &'a Questions, options: &'a LoadOptions, arrivals: Option<Arrivals>) -> io::Result<Self> {
        let sockets = options.sockets.clamp(1, SOCKETS_MAX);
        let window = (options.window / sockets).clamp(1, WINDOW_MAX);
        let client = || Client { slots: vec![Slot::default(); window], free: (0..window as u16).rev().collect() };
        let batch = options.batch.clamp(1, BATCH_MAX);
        Ok(Self {
            questions,
            options,
            arrivals,
            sockets: (0..sockets).map(|_| datagrams::connect(options.server)).collect::<io::Result<_>>()?,
            clients: (0..sockets).map(|_| client()).collect(),
            batch: Batch::new(batch),
            batch_slots: Vec::with_capacity(batch),
            slot_bits: window.next_power_of_two().ilog2(),
            next: 0,
            report: LoadReport::default(),
            latencies: Latencies::default(),
            lateness: Latencies::default(),
            phases: (0..=options.phase_ends.len()).map(|_| Phase::default()).collect(),
        })
    }

    fn ask_until(&mut self, started: Instant, until: Until) -> io::Result<()> {
        let mut swept = started;
        loop {
            let now = Instant::now();
            let elapsed = now - started;
            let asked_max = match until {
                Until::Elapsed(limit) | Until::EachAskedWithin(limit) if elapsed >= limit => return Ok(()),
                Until::EachAsked | Until::EachAskedWithin(_) if self.next >= self.questions.len() => return Ok(()),
                Until::Elapsed(_) => usize::MAX,
                Until::EachAsked | Until::EachAskedWithin(_) => self.questions.len(),
            };
            let now_ns = elapsed.as_nanos() as u64;
            let mut moved = 0;
            for client in 0..self.clients.len() {
                moved += self.receive(client, started)?;
                moved += self.send(client, started, asked_max, now_ns)?;
            }
            if self.arrivals.is_some() && self.may_ask(asked_max, now_ns) {
                let is_full = self.clients.iter().all(|client| client.free.is_empty());
                self.report.window_full += u64::from(is_full);
            }
            if now - swept >= SWEEP_EVERY {
                self.sweep(elapsed);
                swept = now;
            }
            if moved == 0 && !self.options.spin {
                let next_due = Duration::from_nanos(self.due_ns(self.next).unwrap_or_default());
                // Without a rate, or when all is late, only an answer lets the loop go on.
                let wait = next_due.saturating_sub(started.elapsed()).min(WAIT_MAX);
                datagrams::wait_readable(&self.sockets, if wait.is_zero() { WAIT_MAX } else { wait })?;
            }
        }
    }

    /// Waits for the answers that are still out.
    fn drain(&mut self, started: Instant) -> io::Result<()> {
        let deadline = Instant::now() + self.options.timeout;
        while self.clients.iter().any(|client| client.free.len() < client.slots.len()) && Instant::now() < deadline {
            datagrams::wait_readable(&self.sockets, WAIT_MAX)?;
            for client in 0..self.clients.len() {
                self.receive(client, started)?;
            }
        }
        self.sweep(Duration::MAX);
        Ok(())
    }

    /// Nanoseconds from the start until question `number` is due; none when questions are never due.
    fn due_ns(&self, number: usize) -> Option<u64> {
        self.arrivals.as_ref().map(|arrivals| arrivals.due_ns(number))
    }

    /// Whether there is a next question and it is due.
    fn may_ask(&self, asked_max: usize, now_ns: u64) -> bool {
        self.next < asked_max && self.due_ns(self.next).is_none_or(|due_ns| due_ns <= now_ns)
    }

    fn send(&mut self, client: usize, started: Instant, asked_max: usize, now_ns: u64) -> io::Result<usize> {
        let first = self.next;
        self.batch.clear();
        self.batch_slots.clear();
        while self.may_ask(asked_max, now_ns) && !self.batch.is_full() {
            let Client { slots, free } = &mut self.clients[client];
            let Some(number) = free.pop() else { break };
            let slot = &mut slots[usize::from(number)];
            let index = self.next % self.questions.len();
            // The id is the slot's number under a round that moves on, so a late answer is told from one in time.
            slot.id = ((slot.id >> self.slot_bits).wrapping_add(1) << self.slot_bits) | number;
            slot.question = index as u32;
            let packet = self.questions.packet(self.questions.question(index));
            let Some(octets) = self.batch.push(packet) else { break };
            octets[..2].copy_from_slice(&slot.id.to_be_bytes());
            self.batch_slots.push(number);
            self.next += 1;
        }
        if self.batch.is_empty() {
            return Ok(0);
        }
        let sent_ns = started.elapsed().as_nanos() as u64;
        let sent = self.batch.send(&self.sockets[client], false);
        let sent = unless_refused(sent, &self.report)?;
        for place in 0..sent {
            let due_ns = self.due_ns(first + place).unwrap_or(sent_ns);
            let slot = &mut self.clients[client].slots[usize::from(self.batch_slots[place])];
            (slot.is_open, slot.sent_ns, slot.due_ns) = (true, sent_ns, due_ns);
            self.lateness.record(sent_ns.saturating_sub(due_ns));
        }
        // What the kernel did not take is asked again later.
        self.next -= self.batch_slots.len() - sent;
        self.clients[client].free.extend(self.batch_slots[sent..].iter().rev());
        self.report.sent += sent as u64;
        Ok(sent)
    }

    fn receive(&mut self, client: usize, started: Instant) -> io::Result<usize> {
        let received = self.batch.receive(&self.sockets[client], Wait::Never);
        let received = unless_refused(received, &self.report)?;
        if received == 0 {
            return Ok(0);
        }
        let now_ns = started.elapsed().as_nanos() as u64;
        for index in 0..received {
            self.take_answer(client, index, now_ns);
        }
        Ok(received)
    }

    fn take_answer(&mut self, client: usize, index: usize, now_ns: u64) {
        let Client { slots, free } = &mut self.clients[client];
        let response = self.batch.datagram(index);
        let id = response.first_chunk().map_or(0, |id| u16::from_be_bytes(*id));
        let number = id & ((1 << self.slot_bits) - 1);
        let Some(slot) = slots.get_mut(usize::from(number)).filter(|slot| slot.is_open && slot.id == id) else {
            self.report.stray += 1;
            return;
        };
        let question = self.questions.question(slot.question as usize);
        let expect = if self.options.any_answer { Expect::Any } else { question.expect };
        let phase = phase_of(&mut self.phases, &self.options.phase_ends, slot.due_ns);
        match answer::check(response, self.questions.question_section(question), question.rtype, expect) {
            Ok(()) => {
                self.report.answered += 1;
                phase.report.answered += 1;
            }
            Err(wrong) => {
                self.report.wrong += 1;
                phase.report.wrong += 1;
                *self.report.wrong_reasons.entry(wrong).or_default() += 1;
                if self.report.wrong_examples.len() < WRONG_SHOWN_MAX {
                    let section = self.questions.question_section(question).escape_ascii();
                    let got = response.escape_ascii();
                    let example = format!("{wrong}: asked {section}, expected {expect:?}, got {got}");
                    self.report.wrong_examples.push(example);
                }
            }
        }
        let latency_ns = now_ns.saturating_sub(slot.due_ns);
        self.latencies.record(latency_ns);
        phase.latencies.record(latency_ns);
        slot.is_open = false;
        free.push(number);
    }

    /// Gives up the questions that have waited too long; all of them at [`Duration::MAX`].
    fn sweep(&mut self, elapsed: Duration) {
        let overdue_ns = elapsed.saturating_sub(self.options.timeout).as_nanos();
        for Client { slots, free } in &mut self.clients {
            for (number, slot) in (0u16..).zip(slots) {
                if slot.is_open && u128::from(slot.sent_ns) < overdue_ns {
                    slot.is_open = false;
                    free.push(number);
                    self.report.lost += 1;
                    phase_of(&mut self.phases, &self.options.phase_ends, slot.due_ns).report.lost += 1;
                }
            }
        }
    }
}

/// The phase that a question belongs to; there is one more than there are ends.
fn phase_of<'a>(phases: &'a mut [Phase], ends: &[Duration], due_ns: u64) -> &'a mut Phase {
    let number = ends.partition_point(|end| end.as_nanos() <= u128::from(due_ns));
    &mut phases[number]
}

/// A refused port is an error until the first answer; later the server is restarting, and its silence counts as loss.
fn unless_refused(moved: io::Result<usize>, report: &LoadReport) -> io::Result<usize> {
    match moved {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused && report.answered + report.wrong > 0 => Ok(0),
        moved => moved,
    }
}

impl LoadReport {
    /// Whether every question was answered, and rightly.
    pub fn is_clean(&self) -> bool {
        self.wrong == 0 && self.lost == 0
    }

    /// The figures for a reader, a few lines.
    pub fn to_text(&self) -> String {
        let mut text = format!(
            "{:.1} s: {} asked, {} right, {} wrong, {} lost, {} stray; {:.0} answers/s\nlatency us: p50 {:.0}, p99 {:.0}, p99.9 {:.0}, max {:.0}\n",
            self.seconds,
            self.sent,
            self.answered,
            self.wrong,
            self.lost,
            self.stray,
            self.qps,
            self.us_p50,
            self.us_p99,
            self.us_p999,
            self.us_max
        );
        if self.window_full > 0 {
            text += &format!(
                "the window was full {} times when a question was due: the loop was not open\n",
                self.window_full
            );
        }
        if let (Some(us), Some(cores)) = (self.server_cpu_us_per_answer, self.server_cores_used) {
            text += &format!("server: {us:.2} us CPU per answer, {cores:.2} cores");
            if let Some(memory) = self.server_memory {
                text += &format!(", {} KiB resident ({} private)", memory.rss_kib, memory.anonymous_kib);
            }
            text += "\n";
        }
        text += &format!("client: {:.2} us CPU per answer\n", self.client_cpu_us_per_answer);
        for (wrong, count) in &self.wrong_reasons {
            text += &format!("wrong, {wrong}: {count}\n");
        }
        for example in &self.wrong_examples {
            text += &format!("  {example}\n");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::questions::PacketOptions;
    use std::thread;

    fn options(server: SocketAddr) -> LoadOptions {
        LoadOptions {
            server,
            window: 8,
            sockets: 2,
            batch: 4,
            rate: None,
            timeout: Duration::from_secs(1),
            spin: false,
            any_answer: false,
            server_pid: None,
            server_thread: None,
            phase_ends: Vec::new(),
        }
    }

    /// A server that answers `0.0.0.0`, or not at all for names that begin with `l`, until `questions` have come.
    fn serve(questions: usize) -> (SocketAddr, thread::JoinHandle<()>) {
        let socket = datagrams::listen("127.0.0.1:0".parse().unwrap(), Duration::from_secs(5)).unwrap();
        let address = socket.local_addr().unwrap();
        let server = thread::spawn(move || {
            let mut batch = Batch::new(1);
            for _ in 0..questions {
                assert_eq!(batch.receive(&socket, Wait::First).unwrap(), 1);
                let (octets, length) = batch.datagram_mut(0);
                octets[2] |= 0x80;
                octets[7] = 1;
                octets[*length..][..16].copy_from_slice(b"\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04\0\0\0\0");
                *length += 16;
                if octets[13] != b'l' {
                    batch.send(&socket, true).unwrap();
                }
            }
        });
        (address, server)
    }

    #[test]
    fn every_question_ends_as_answered_wrong_or_lost() {
        let mut text: String = (0..100).map(|number| format!("a{number}.test A blocked\n")).collect();
        text += "b.test A 192.0.2.1\nlost.test A any\nlate.test A any\n";
        let questions = Questions::parse(&text, PacketOptions::default()).unwrap();
        let (address, server) = serve(questions.len());
        let report = run(&questions, &options(address), Until::EachAsked).unwrap();
        server.join().unwrap();
        assert_eq!((report.sent, report.answered, report.wrong, report.lost, report.stray), (103, 100, 1, 2, 0));
        assert_eq!(report.wrong_reasons[&Wrong::Address], 1);
        assert!(!report.is_clean() && report.us_p50 > 0.0);
        // The second that was waited for the lost ones does not count.
        assert!(report.qps > 101.0, "{}", report.qps);
    }

    #[test]
    fn latency_counts_from_when_a_question_was_due_and_each_belongs_to_a_phase() {
        let text: String = (0..40).map(|number| format!("a{number}.test A blocked\n")).collect();
        let questions = Questions::parse(&text, PacketOptions::default()).unwrap();
        // All are due within 40 us; one may be out at a time, and the server takes 1 ms for each.
        let socket = datagrams::listen("127.0.0.1:0".parse().unwrap(), Duration::from_secs(5)).unwrap();
        let address = socket.local_addr().unwrap();
        let server = thread::spawn(move || {
            let mut batch = Batch::new(1);
            for _ in 0..40 {
                assert_eq!(batch.receive(&socket, Wait::First).unwrap(), 1);
                let (octets, length) = batch.datagram_mut(0);
                octets[2] |= 0x80;
                octets[7] = 1;
                octets[*length..][..16].copy_from_slice(b"\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04\0\0\0\0");
                *length += 16;
                let taken = Instant::now();
                while taken.elapsed() < Duration::from_millis(1) {}
                batch.send(&socket, true).unwrap();
            }
        });
        let options = LoadOptions {
            window: 1,
            sockets: 1,
            rate: Some(1_000_000),
            phase_ends: vec![Duration::from_micros(20)],
            ..options(address)
        };
        let report = run(&questions, &options, Until::EachAsked).unwrap();
        server.join().unwrap();
        let [first, second] = &report.phases[..] else { panic!("{:?}", report.phases) };
        assert_eq!((first.answered, second.answered, report.answered), (20, 20, 40));
        // The last of the first phase waits for nineteen others, those of the second for at least twenty.
        assert!(first.us_max >= 19_000.0 && second.us_p50 >= 20_000.0 && report.us_max >= 39_000.0, "{report:?}");
        // A window of one is no open loop, and the report says so; the wait for it is this tool's, not the server's.
        assert!(report.window_full > 0 && report.us_late_p99 >= 30_000.0, "{report:?}");
    }

    #[test]
    fn names_that_may_not_come_again_end_a_run_as_its_time_does() {
        let text: String = (0..30).map(|number| format!("a{number}.test A blocked\n")).collect();
        let questions = Questions::parse(&text, PacketOptions::default()).unwrap();
        let (address, server) = serve(30);
        let within = |seconds| Until::EachAskedWithin(Duration::from_secs(seconds));
        assert_eq!(run(&questions, &options(address), within(0)).unwrap().sent, 0);
        assert_eq!(run(&questions, &options(address), within(60)).unwrap().answered, 30);
        server.join().unwrap();
    }

    #[test]
    fn a_server_that_is_not_there_is_an_error() {
        let closed = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let questions = Questions::parse("a.test A", PacketOptions::default()).unwrap();
        let error = run(&questions, &options(closed), Until::EachAsked);
        // The refusal may come after the only question's time: then it is lost.
        assert!(error.map_or(true, |report| report.lost == 1));
    }
}
