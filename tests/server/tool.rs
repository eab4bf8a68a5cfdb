//! The clients that operators have, as programs: dig, kdig and drill, and what they print.

use std::process::{Command, Output};

/// A program that asks DNS questions and prints the answer as a master file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tool {
    Dig,
    Kdig,
    Drill,
}

/// What a program printed of one reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Printed {
    /// RCODE, as a mnemonic.
    pub status: String,
    /// `TYPE DATA` of each answer, sorted, in lower case and without quotation marks: programs differ in those.
    pub answers: Vec<String>,
    /// Everything.
    pub text: String,
}

impl Tool {
    /// Asks the server at `address` on `port`; none, with a line that says so, where the program is not installed. One try: a
    /// question that is lost is a failure here.
    pub fn ask(self, address: &str, port: u16, arguments: &[&str]) -> Option<Printed> {
        let mut command = Command::new(self.program());
        match self {
            Self::Dig => command.args(["+tries=1", "+timeout=20"]),
            Self::Kdig => command.args(["+retry=0", "+timeout=20"]),
            Self::Drill => &mut command,
        };
        command.args([format!("@{address}"), "-p".to_owned(), port.to_string()]).args(arguments);
        let output = output(command, self.package())?;
        assert!(output.status.success(), "{self:?} {arguments:?}: {output:?}");
        Some(Printed::read(String::from_utf8(output.stdout).unwrap()))
    }

    fn program(self) -> &'static str {
        match self {
            Self::Dig => "dig",
            Self::Kdig => "kdig",
            Self::Drill => "drill",
        }
    }

    fn package(self) -> &'static str {
        match self {
            Self::Dig => "bind9-dnsutils",
            Self::Kdig => "knot-dnsutils",
            Self::Drill => "ldnsutils",
        }
    }
}

/// Carries a command out; none, with a line that says so, where the program is not installed.
pub fn output(mut command: Command, package: &str) -> Option<Output> {
    match command.output() {
        Ok(output) => Some(output),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            println!("SKIPPED: {} is not installed; `apt-get install {package}`", command.get_program().display());
            None
        }
        Err(error) => panic!("{command:?}: {error}"),
    }
}

impl Printed {
    fn read(text: String) -> Self {
        let header =
            text.lines().find(|line| line.contains("->>HEADER<<-")).unwrap_or_else(|| panic!("no reply: {text}"));
        // drill calls it rcode.
        let status = ["status: ", "rcode: "].iter().find_map(|key| header.split_once(key)).map_or("", |(_, rest)| rest);
        let status = status.chars().take_while(char::is_ascii_alphanumeric).collect();
        let section = text.lines().skip_while(|line| !line.contains("ANSWER SECTION:")).skip(1);
        let mut answers: Vec<String> = section.take_while(|line| !line.is_empty()).map(type_and_data).collect();
        answers.sort_unstable();
        Self { status, answers, text }
    }

    /// Whether this flag, such as `tc`, is set.
    pub fn has_flag(&self, flag: &str) -> bool {
        let flags = self.text.lines().find_map(|line| line.split_once("flags: ")).map_or("", |(_, rest)| rest);
        flags.split(';').next().unwrap_or_default().split_whitespace().any(|known| known == flag)
    }
}

/// Of a line `OWNER TTL CLASS TYPE DATA`.
fn type_and_data(line: &str) -> String {
    let fields: Vec<&str> = line.split_whitespace().skip(3).collect();
    fields.join(" ").replace('"', "").to_lowercase()
}
