//! The answer itself, as the server would send it.

use std::net::SocketAddr;
use std::sync::Arc;

use domain::base::iana::Class;
use domain::base::opt::ExtendedError;
use domain::base::{Message, MessageBuilder, ParsedName, Rtype};
use domain::rdata::AllRecordData;

use super::Question;
use crate::decide::rulebook::RuleBook;
use crate::decide::settings::Settings;
use crate::decide::{Core, Now, Origin, Step, Transport};
use crate::limits;
use crate::serve::answer_here::carry_out;
use crate::serve::patterns::PatternScanner;
use crate::serve::store::StoreReader;

/// Any port but 0, from which no client asks.
const CLIENT_PORT: u16 = 53_535;

/// Asks a core of its own over TCP, so that nothing is cut.
pub fn of(
    question: &Question,
    mut settings: Settings,
    rules: Arc<RuleBook>,
    store: &mut StoreReader,
    scanner: &mut PatternScanner,
) -> Result<String, String> {
    settings.cache.bytes = limits::CACHE_BYTES_MIN;
    let query = query(question)?;
    // Nothing is sent, so that nobody could guess what is drawn from this seed.
    let mut core = Core::new(Arc::new(settings), rules, [0; 32]);
    let from = Origin {
        client: SocketAddr::new(question.client, CLIENT_PORT),
        local: None,
        transport: Transport::Tcp,
        token: 0,
    };
    let mut out = vec![0; limits::MESSAGE_BYTES_MAX];
    let now = Now(1);
    let step = core.on_datagram(now, from, &query, &mut out);
    match carry_out(&mut core, now, step, store, scanner, &mut out) {
        Step::Reply { bytes, .. } => shown(out.get(..bytes).unwrap_or_default()),
        Step::Drop(reason) => Ok(format!("  none at all ({reason:?})\n")),
        _ => Ok("  what the upstream says, its CNAME targets and addresses judged, then rewritten\n".to_owned()),
    }
}

fn query(question: &Question) -> Result<Vec<u8>, String> {
    let too_long = |_| "the question does not fit a message".to_owned();
    let name = domain::base::Name::from_octets(question.name.as_wire().to_vec()).map_err(|error| error.to_string())?;
    let mut builder = MessageBuilder::new_vec();
    builder.header_mut().set_rd(true);
    let mut builder = builder.question();
    builder.push((name, Rtype::from_int(question.rtype), Class::IN)).map_err(too_long)?;
    let mut builder = builder.additional();
    builder.opt(|_| Ok(())).map_err(too_long)?;
    Ok(builder.finish())
}

fn shown(message: &[u8]) -> Result<String, String> {
    let unreadable = |error: domain::base::wire::ParseError| format!("our own answer cannot be read: {error}");
    let message = Message::from_octets(message).map_err(|error| error.to_string())?;
    let mut out = format!("  {}\n", message.opt_rcode());
    for (name, section) in
        [("answer", message.answer().map_err(unreadable)?), ("authority", message.authority().map_err(unreadable)?)]
    {
        for record in section {
            let record = record.map_err(unreadable)?;
            let record = record.to_any_record::<AllRecordData<_, ParsedName<_>>>().map_err(unreadable)?;
            out += &format!("  {name}: {record}\n");
        }
    }
    if let Some(opt) = message.opt() {
        for error in opt.opt().iter::<ExtendedError<_>>() {
            let error = error.map_err(unreadable)?;
            let text = error.text_slice().map(String::from_utf8_lossy).unwrap_or_default();
            let (number, code) = (error.code().to_int(), error.code());
            out += &format!("  Extended DNS Error {number} ({code}): {text}\n");
        }
    }
    Ok(out)
}
