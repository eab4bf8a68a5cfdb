//! The layers of `README.md`, held by reading the sources: what Cargo cannot forbid within one crate is forbidden here.

use std::fs;
use std::path::{Path, PathBuf};

/// Source files below `folder`, with their text up to their unit tests, comments taken out.
fn sources(folder: &str) -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut folders = vec![root.join(folder)];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
            let path: PathBuf = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") && !path.ends_with("tests.rs") {
                let text = fs::read_to_string(&path).unwrap();
                let code = text.split("#[cfg(test)]").next().unwrap_or_default();
                let code = code.lines().map(|line| line.split("//").next().unwrap_or_default());
                let name = path.strip_prefix(root).unwrap().display().to_string();
                found.push((name, code.collect::<Vec<_>>().join("\n")));
            }
        }
    }
    assert!(!found.is_empty(), "{folder} holds no source");
    found
}

/// Whether `word` stands in a line and does not go on behind its end: `.await` is not `.awaited`.
fn holds(line: &str, word: &str) -> bool {
    let goes_on = |c: char| c.is_alphanumeric() || c == '_';
    let ends_a_word = word.ends_with(goes_on);
    line.match_indices(word).any(|(at, _)| !(ends_a_word && line[at + word.len()..].starts_with(goes_on)))
}

fn offenders(folder: &str, words: &[&str], but_in: &[&str]) -> Vec<String> {
    let mut offenders = Vec::new();
    for (file, code) in sources(folder) {
        if but_in.iter().any(|allowed| file.starts_with(allowed)) {
            continue;
        }
        for (number, line) in code.lines().enumerate() {
            if let Some(word) = words.iter().find(|word| holds(line, word)) {
                offenders.push(format!("{file}:{}: `{word}`", number + 1));
            }
        }
    }
    offenders
}

#[test]
fn decide_waits_for_nothing_and_reads_no_clock() {
    let words = [
        "std::fs",
        "std::thread",
        "std::io",
        "UdpSocket",
        "TcpStream",
        "TcpListener",
        "Instant",
        "SystemTime",
        "glommio",
        "rusqlite",
        "hyperscan",
        "async ",
        ".await",
        "crate::serve",
        "crate::cli",
        "crate::config",
        "crate::build",
        "crate::lists",
    ];
    assert_eq!(offenders("src/decide", &words, &[]), Vec::<String>::new());
}

#[test]
fn decide_says_nothing_and_never_panics_on_purpose() {
    let words = [
        ".unwrap()",
        ".expect(",
        "panic!",
        "unreachable!",
        "todo!",
        "println!",
        "eprintln!",
        "dbg!",
        "tracing::",
        "Mutex",
        "RwLock",
    ];
    assert_eq!(offenders("src/decide", &words, &[]), Vec::<String>::new());
}

#[test]
fn each_engine_stays_behind_its_layer() {
    assert_eq!(offenders("src", &["glommio"], &["src/serve/", "src/control/"]), Vec::<String>::new());
    assert_eq!(offenders("src", &["rusqlite"], &[]), Vec::<String>::new());
    assert_eq!(
        offenders("src", &["hyperscan::"], &["src/serve/patterns", "src/build/patterns", "src/lists/patterns.rs"]),
        Vec::<String>::new()
    );
    assert_eq!(
        offenders("sharding/src", &["glommio", "hyperscan", "domain::", "UdpSocket"], &[]),
        Vec::<String>::new()
    );
}

#[test]
fn unsafe_code_stays_in_the_files_named_for_it() {
    let allowed = ["src/serve/udp.rs", "src/serve/kernel.rs", "src/build/patterns/child.rs"];
    assert_eq!(offenders("src", &["unsafe "], &allowed), Vec::<String>::new());
    let allowed = ["sharding/src/filter.rs", "sharding/src/memory.rs", "sharding/src/vfs.rs"];
    assert_eq!(offenders("sharding/src", &["unsafe "], &allowed), Vec::<String>::new());
}

#[test]
fn every_unsafe_block_gives_its_reason() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (file, _) in sources("src").into_iter().chain(sources("sharding/src")) {
        let text = fs::read_to_string(root.join(&file)).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        for (number, line) in lines.iter().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            if code.contains("unsafe {") || code.contains("unsafe impl") {
                let above = &lines[number.saturating_sub(8)..=number];
                assert!(above.iter().any(|line| line.contains("SAFETY:")), "{file}:{}: no SAFETY reason", number + 1);
            }
        }
    }
}

#[test]
fn every_dependency_gives_its_reason_and_a_version() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for file in ["Cargo.toml", "sharding/Cargo.toml", "bench/Cargo.toml", "bench/stages/Cargo.toml"] {
        let text = fs::read_to_string(root.join(file)).unwrap();
        let mut seen = 0;
        for section in text.split("\n[").filter(|section| section.contains("dependencies]\n")) {
            let lines: Vec<&str> = section.lines().skip(1).filter(|line| !line.is_empty()).collect();
            let is_comment = |line: &str| line.starts_with('#');
            let named = lines.iter().filter(|line| !is_comment(line));
            let names: Vec<&str> = named.filter_map(|line| line.split([' ', '=']).next()).collect();
            assert!(names.is_sorted(), "{file}: sort {names:?}");
            for (place, line) in lines.iter().enumerate().filter(|(_, line)| !is_comment(line)) {
                assert!(place > 0 && is_comment(lines[place - 1]), "{file}: `{line}` does not say what it is for");
                assert!(!line.contains("\"*\""), "{file}: `{line}` takes any version");
                seen += 1;
            }
        }
        assert!(seen > 5, "{file} has {seen} dependencies");
    }
}

#[test]
fn files_that_the_readme_names_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = fs::read_to_string(root.join("README.md")).unwrap();
    let mut named = 0;
    for word in readme.split('`').skip(1).step_by(2) {
        let is_path = ["src/", "sharding/", "tests/", "bench/", "schema/", "tuning/", "freebsd-notes/"]
            .iter()
            .any(|folder| word.starts_with(folder));
        if is_path && !word.contains(['*', ' ', '{', '<']) {
            named += 1;
            assert!(root.join(word).exists(), "README.md names `{word}`, which does not exist");
        }
    }
    assert!(named > 10, "README.md should say where things are; it names {named} files");
}
