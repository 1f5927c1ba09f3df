//! A subscriber that acknowledges everything at once.

use std::io;
use std::rc::Rc;

use crate::link::{Link, kind};
use crate::run::Tally;

/// Reads and acknowledges until the connection ends or the task is dropped.
pub(crate) async fn run(mut link: Link, tally: Rc<Tally>) -> io::Result<()> {
    loop {
        while let Some((first, body)) = link.next() {
            if first & 0xf0 == kind::PUBLISH {
                take(&mut link, first, &body, &tally)?;
            } else if first == kind::DISCONNECT {
                return Err(io::Error::other(format!("DISCONNECT {:x?}", link.bytes(&body))));
            }
        }
        link.flush().await?;
        link.fill().await?;
    }
}

fn take(
    link: &mut Link,
    first: u8,
    body: &std::ops::Range<usize>,
    tally: &Tally,
) -> io::Result<()> {
    let short = || io::Error::other("short PUBLISH");
    let bytes = link.bytes(body);
    let [high, low, rest @ ..] = bytes else { return Err(short()) };
    let topic = usize::from(*high) << 8 | usize::from(*low);
    let mut rest = rest.get(topic..).ok_or_else(short)?;
    let mut puback = None;
    if first & 0x06 != 0 {
        let (id, after) = rest.split_at_checked(2).ok_or_else(short)?;
        puback = Some([0x40, 2, id[0], id[1]]);
        rest = after;
    }
    // Our publishers send no properties and servers add few: one byte of length.
    let properties = usize::from(*rest.first().ok_or_else(short)?);
    let payload = rest.get(1 + properties..).ok_or_else(short)?;
    let sent = payload.first_chunk::<8>().ok_or_else(short)?;
    tally.deliver(tally.clock.nanos().saturating_sub(u64::from_be_bytes(*sent)));
    link.output.extend(puback.into_iter().flatten());
    Ok(())
}
