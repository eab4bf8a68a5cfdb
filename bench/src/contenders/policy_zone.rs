//! The names to block as a response policy zone, for the peers that read one. Both addresses are in it, as Corewall blocks both.

/// The origin of the zone.
pub const ORIGIN: &str = "blocked.rpz";

/// The zone file.
pub fn zone(names: &[String]) -> String {
    let head = format!(
        "$TTL 3600\n$ORIGIN {ORIGIN}.\n@ IN SOA a.invalid. hostmaster.invalid. 1 3600 900 604800 60\n@ IN NS a.invalid.\n"
    );
    head + &super::lines(names, |text, name| *text += &format!("{name} A 0.0.0.0\n{name} AAAA ::"))
}
