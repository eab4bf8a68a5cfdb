//! A server under measurement: started as a child, awaited until it says `ready`, stopped by SIGTERM.
//!
//! Invariant: no child outlives its [`Server`].

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use crate::answer;
use crate::questions::Questions;

/// The configuration under which Corewall is measured.
const COREWALL_CONFIG: &str = include_str!("../corewall.toml.in");
/// Longer than any start that the project would accept.
const READY_WAIT: Duration = Duration::from_secs(60);
/// After this a child that was asked to end is killed.
const STOP_WAIT: Duration = Duration::from_secs(10);
/// Pause between two looks at a child that starts or ends.
const PAUSE: Duration = Duration::from_millis(5);
/// Wait for one answer while a server starts.
const ANSWER_WAIT: Duration = Duration::from_millis(100);
/// Longer than the kernel needs to close the sockets of a process that has ended.
const FREE_WAIT: Duration = Duration::from_secs(5);
/// A query for the SOA of the root.
const ROOT_SOA_QUERY: &[u8] = &[0x5a, 0x5a, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 6, 0, 1];

/// A running server.
pub struct Server {
    child: Child,
    /// From the start of the process to its `ready`.
    pub ready_after: Duration,
}

impl Server {
    /// Starts `command` and waits for a line on its stdout that begins with `ready`. Both outputs go to `log`.
    pub fn start(mut command: Command, log: &Path) -> io::Result<Self> {
        let log_file = File::create(log)?;
        let started = Instant::now();
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log_file.try_clone()?).spawn()?;
        let output = child.stdout.take().ok_or_else(|| io::Error::other("child without stdout"))?;
        let (ready_sender, ready) = mpsc::channel();
        // The thread ends with the child's output; until then the child is never held up by a full pipe.
        thread::spawn(move || copy_output(output, log_file, &ready_sender));
        let mut server = Self { child, ready_after: Duration::ZERO };
        if ready.recv_timeout(READY_WAIT).is_err() {
            let state = server.child.try_wait()?.map_or("still running".into(), |status| status.to_string());
            let said = std::fs::read_to_string(log).unwrap_or_default();
            return Err(io::Error::other(format!("{command:?} did not get ready ({state}):\n{said}")));
        }
        server.ready_after = started.elapsed();
        Ok(server)
    }

    /// Starts a DNS server that says nothing when it is ready: it is when it answers on `address`.
    pub fn start_answering(mut command: Command, log: &Path, address: SocketAddr) -> io::Result<Self> {
        let log_file = File::create(log)?;
        let started = Instant::now();
        let child = command.stdin(Stdio::null()).stdout(log_file.try_clone()?).stderr(log_file).spawn()?;
        let mut server = Self { child, ready_after: Duration::ZERO };
        let socket = UdpSocket::bind(if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
        socket.set_read_timeout(Some(ANSWER_WAIT))?;
        socket.connect(address)?;
        while started.elapsed() < READY_WAIT {
            if let Some(status) = server.child.try_wait()? {
                let said = std::fs::read_to_string(log).unwrap_or_default();
                return Err(io::Error::other(format!("{command:?} ended ({status}):\n{said}")));
            }
            // A refused port is the same as silence here: the server is still starting.
            if socket.send(ROOT_SOA_QUERY).is_ok() && socket.recv(&mut [0; 512]).is_ok() {
                server.ready_after = started.elapsed();
                return Ok(server);
            }
            thread::sleep(PAUSE);
        }
        Err(io::Error::other(format!("{command:?} did not answer on {address}")))
    }

    /// Waits until the first of `questions` is answered rightly on `address`.
    pub fn await_right(&self, address: SocketAddr, questions: &Questions) -> io::Result<()> {
        let socket = UdpSocket::bind(if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
        socket.set_read_timeout(Some(ANSWER_WAIT))?;
        socket.connect(address)?;
        let question = questions.question(0);
        let section = questions.question_section(question);
        let (asked, mut answer, mut last) = (Instant::now(), [0; 512], "no answer".to_owned());
        while asked.elapsed() < READY_WAIT {
            if socket.send(questions.packet(question)).is_ok()
                && let Ok(length) = socket.recv(&mut answer)
            {
                match answer::check(&answer[..length], section, question.rtype, question.expect) {
                    Ok(()) => return Ok(()),
                    Err(wrong) => last = wrong.to_string(),
                }
            }
            thread::sleep(PAUSE);
        }
        let question = section.escape_ascii();
        Err(io::Error::other(format!("{address} does not answer {question} rightly within {READY_WAIT:?}: {last}")))
    }

    /// The process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal, by name, to its whole process group; for a command that was started as the leader of one.
    pub fn signal_group(&self, name: &str) -> io::Result<()> {
        let sent = Command::new("kill").args([&format!("-{name}"), "--", &format!("-{}", self.pid())]).status()?;
        if sent.success() {
            Ok(())
        } else {
            Err(io::Error::other(format!("SIG{name} cannot be sent to group {}", self.pid())))
        }
    }

    /// Sends SIGTERM and waits for the end.
    pub fn stop(mut self) -> io::Result<ExitStatus> {
        self.terminate()
    }

    fn terminate(&mut self) -> io::Result<ExitStatus> {
        if let Some(status) = self.child.try_wait()? {
            return Ok(status);
        }
        Command::new("kill").arg(self.pid().to_string()).status()?;
        let asked = Instant::now();
        while asked.elapsed() < STOP_WAIT {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            thread::sleep(PAUSE);
        }
        Err(io::Error::other(format!("process {} did not end within {STOP_WAIT:?} of SIGTERM", self.pid())))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // By SIGTERM first, so that a script ends what it has started itself. The last two fail only when it has ended.
        if self.terminate().is_err() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Waits until nobody is bound to the UDP port of `address`, which the next server is to have for itself.
///
/// A process that has ended may hold its port for some 50 ms yet: what an io_uring refers to is closed by a thread of the
/// kernel. Next to it another server could bind by SO_REUSEPORT, and every question that the kernel gave the dead socket
/// would be lost: all of them, with a client of one port. A server that somebody left running is noticed as well.
pub fn await_free(address: SocketAddr) -> io::Result<()> {
    await_free_within(address, FREE_WAIT)
}

fn await_free_within(address: SocketAddr, wait: Duration) -> io::Result<()> {
    let asked = Instant::now();
    loop {
        // The standard library binds without SO_REUSEPORT, so a port that anybody has is refused.
        match UdpSocket::bind(address) {
            Ok(_) => return Ok(()),
            Err(error) if error.kind() != io::ErrorKind::AddrInUse => {
                return Err(io::Error::new(error.kind(), format!("{address} cannot be listened on: {error}")));
            }
            Err(_) if asked.elapsed() >= wait => {
                let advice = "stop what listens there (`ss -lunp` shows it), or choose another address";
                return Err(io::Error::new(io::ErrorKind::AddrInUse, format!("UDP {address} is in use: {advice}")));
            }
            Err(_) => thread::sleep(PAUSE),
        }
    }
}

fn copy_output(output: impl Read, mut log: File, ready: &mpsc::Sender<()>) {
    for line in BufReader::new(output).lines() {
        let Ok(line) = line else { return };
        // A log that cannot be written loses words, not the measurement.
        let _ = writeln!(log, "{line}");
        if line.starts_with("ready") && ready.send(()).is_err() {
            return;
        }
    }
}

/// The configuration text for Corewall on these cores, this address, this store of the list `union`, and this upstream.
pub fn corewall_config(cores: &str, listen: &str, store: &Path, union: &Path, upstream: &str) -> String {
    COREWALL_CONFIG
        .replace("@CORES@", cores)
        .replace("@LISTEN@", listen)
        .replace("@STORE@", &store.display().to_string())
        .replace("@UNION@", &union.display().to_string())
        .replace("@UPSTREAM@", upstream)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> io::Result<Server> {
        let log = std::env::temp_dir().join(format!("corewall-bench-{}-{}.log", std::process::id(), script.len()));
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        let server = Server::start(command, &log);
        let _ = std::fs::remove_file(log);
        server
    }

    #[test]
    fn a_server_is_awaited_and_ends_on_term() {
        let server = shell("echo loading; echo ready now; exec tail -f /dev/null").unwrap();
        let path = format!("/proc/{}", server.pid());
        assert!(Path::new(&path).exists());
        assert!(!server.stop().unwrap().success());
        assert!(!Path::new(&path).exists());
    }

    #[test]
    fn a_server_that_fails_tells_what_it_said() {
        let error = shell("echo cannot bind >&2; exit 3").err().unwrap().to_string();
        assert!(error.contains("cannot bind"), "{error}");
    }

    #[test]
    fn a_port_is_free_once_its_last_socket_is_closed_be_it_one_that_would_share() {
        let held = crate::datagrams::listen("127.0.0.1:0".parse().unwrap(), Duration::from_secs(1)).unwrap();
        let address = held.local_addr().unwrap();
        let error = await_free_within(address, Duration::ZERO).unwrap_err();
        assert!(error.kind() == io::ErrorKind::AddrInUse && error.to_string().contains("ss -lunp"), "{error}");
        let closing = thread::spawn(move || drop(held));
        await_free(address).unwrap();
        closing.join().unwrap();
    }

    #[test]
    fn no_placeholder_is_left_in_the_configuration() {
        let config = corewall_config("0", "127.0.0.1:5353", Path::new("/store"), Path::new("/union"), "127.0.0.1:5300");
        let settings: String = config.lines().filter(|line| !line.starts_with('#')).collect();
        assert!(!settings.contains('@') && settings.contains("\"127.0.0.1:5300\""), "{config}");
    }
}
