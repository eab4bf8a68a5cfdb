//! Tokens of master files (RFC 1035 §5.1) and of the like lines that unbound takes.
//!
//! Invariant: one damaged line costs that line. An entry that a parenthesis leaves open ends with the bound on its length.

/// Octets of one entry over all its lines.
const ENTRY_BYTES_MAX: usize = 64 * 1024;
/// Tokens of one entry.
const TOKENS_MAX: usize = 1_024;

/// What a line did to the entry that is being put together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The entry is complete, or the line was empty.
    Complete,
    /// A parenthesis is open: the next line goes on.
    Open,
    /// Quotes or parentheses that do not match, or too much of something; the entry is lost.
    Broken,
}

/// One entry of a master file, put together line by line.
#[derive(Default)]
pub struct Entry {
    text: String,
    /// Ranges of the tokens in `text`.
    tokens: Vec<(usize, usize)>,
    /// The entry began with a blank: its owner is that of the entry before.
    pub same_owner: bool,
    depth: u32,
}

impl Entry {
    /// Starts anew.
    pub fn clear(&mut self) {
        self.text.clear();
        self.tokens.clear();
        self.depth = 0;
    }

    /// Whether a parenthesis is open.
    pub fn is_open(&self) -> bool {
        self.depth > 0
    }

    /// The token at this place; quotes are taken off, escapes are kept.
    pub fn token(&self, place: usize) -> Option<&str> {
        let &(start, end) = self.tokens.get(place)?;
        self.text.get(start..end)
    }

    /// The tokens from this place on.
    pub fn tokens_from(&self, place: usize) -> Vec<&str> {
        (place..self.tokens.len()).filter_map(|place| self.token(place)).collect()
    }

    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Adds one line.
    pub fn add_line(&mut self, line: &str) -> Progress {
        if self.depth == 0 {
            self.clear();
            self.same_owner = line.starts_with([' ', '\t']);
        }
        let mut letters = line.char_indices().peekable();
        while let Some((at, letter)) = letters.next() {
            match letter {
                ' ' | '\t' | '\r' => {}
                ';' => break,
                '(' => self.depth += 1,
                ')' if self.depth == 0 => return Progress::Broken,
                ')' => self.depth -= 1,
                '"' => {
                    let start = at + 1;
                    loop {
                        match letters.next() {
                            Some((end, '"')) => {
                                self.push(line.get(start..end).unwrap_or_default());
                                break;
                            }
                            Some((_, '\\')) => drop(letters.next()),
                            Some(_) => {}
                            None => return Progress::Broken,
                        }
                    }
                }
                _ => {
                    let mut end = line.len();
                    let mut escaped = letter == '\\';
                    // A quote inside a token belongs to it, as in `alpn="h2,h3"` (RFC 9460 §2.1).
                    let mut quoted = false;
                    while let Some(&(next, letter)) = letters.peek() {
                        if !escaped && !quoted && matches!(letter, ' ' | '\t' | '\r' | ';' | '(' | ')') {
                            end = next;
                            break;
                        }
                        quoted ^= letter == '"' && !escaped;
                        escaped = letter == '\\' && !escaped;
                        letters.next();
                    }
                    if quoted {
                        return Progress::Broken;
                    }
                    self.push(line.get(at..end).unwrap_or_default());
                }
            }
            if self.text.len() > ENTRY_BYTES_MAX || self.tokens.len() > TOKENS_MAX {
                return Progress::Broken;
            }
        }
        if self.depth > 0 { Progress::Open } else { Progress::Complete }
    }

    fn push(&mut self, token: &str) {
        let start = self.text.len();
        self.text.push_str(token);
        self.tokens.push((start, self.text.len()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_goes_over_lines_while_a_parenthesis_is_open() {
        let mut entry = Entry::default();
        assert_eq!(entry.add_line("@ IN SOA a. b. ( 1 ; serial"), Progress::Open);
        assert_eq!(entry.add_line("  2 3"), Progress::Open);
        assert_eq!(entry.add_line(" 4 5 ) ; done"), Progress::Complete);
        assert_eq!(entry.tokens_from(0), ["@", "IN", "SOA", "a.", "b.", "1", "2", "3", "4", "5"]);
        assert!(!entry.same_owner);
        assert_eq!(entry.add_line("\tNS x."), Progress::Complete);
        assert!(entry.same_owner && entry.len() == 2);
    }

    #[test]
    fn quotes_and_escapes_hold_tokens_together() {
        let mut entry = Entry::default();
        entry.add_line(r#"a\ b TXT "two; words" "q\"q" c;comment"#);
        assert_eq!(entry.tokens_from(0), [r"a\ b", "TXT", "two; words", r#"q\"q"#, "c"]);
        entry.add_line(r#"a HTTPS 1 . alpn="h2, h3" x"#);
        assert_eq!(entry.tokens_from(3), [".", r#"alpn="h2, h3""#, "x"]);
        for line in [r#"a TXT "open"#, "a ) b"] {
            assert_eq!(entry.add_line(line), Progress::Broken, "{line}");
            entry.clear();
        }
    }
}
