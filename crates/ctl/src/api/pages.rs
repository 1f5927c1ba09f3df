//! Listings come in pages; a command shows as many items as it was asked for.

use clap::Args;
use holdfast_admin_api::LIMIT_MAX;

use crate::console::{self, Progress};
use crate::failure::Outcome;

/// After as many pages people are told how far it is.
const PAGES_A_NOTE: u64 = 20;

/// How much of a listing.
#[derive(Debug, Clone, Args)]
pub(crate) struct PageArgs {
    /// At most as many
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) limit: u64,
    /// Everything
    #[arg(long, conflicts_with = "limit")]
    pub(crate) all: bool,
    /// Go on after the cursor that an earlier listing ended with
    #[arg(long, value_name = "CURSOR")]
    pub(crate) after: Option<String>,
}

/// One page.
pub(crate) struct Page<T> {
    pub(crate) items: Vec<T>,
    /// Cursor of the next page; none at the end.
    pub(crate) next: Option<String>,
}

impl PageArgs {
    /// Asks for pages until there are enough items or no more.
    pub(crate) async fn collect<T>(
        &self,
        mut ask: impl AsyncFnMut(Option<String>, u32) -> Outcome<Page<T>>,
    ) -> Outcome<Page<T>> {
        let wanted =
            if self.all { usize::MAX } else { usize::try_from(self.limit).unwrap_or(usize::MAX) };
        let mut listed = Page { items: Vec::new(), next: self.after.clone() };
        let (mut pages, mut progress) = (0, Progress::default());
        loop {
            let left = u32::try_from(wanted - listed.items.len()).unwrap_or(LIMIT_MAX);
            let page = ask(listed.next.take(), left.min(LIMIT_MAX)).await?;
            listed.items.extend(page.items);
            pages += 1;
            if pages % PAGES_A_NOTE == 0 {
                progress.show(format!("{} so far", listed.items.len()));
            }
            // A cursor that does not move would be asked for ever.
            listed.next = page.next;
            if listed.next.is_none() || listed.items.len() >= wanted {
                return Ok(listed);
            }
        }
    }
}

/// Says on stderr that there is more.
pub(crate) fn note_more(next: Option<&str>) {
    if let Some(next) = next {
        console::note(format!("there is more: --all, or --after '{next}'"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn listed(limit: u64, all: bool) -> (Vec<u64>, Option<String>, Vec<u32>) {
        let args = PageArgs { limit, all, after: None };
        let mut asked = Vec::new();
        let page = args
            .collect(async |after, limit| {
                asked.push(limit);
                let from: u64 = after.map_or(0, |after| after.parse().expect("ours"));
                // A page may be shorter than asked for, even empty, before the end.
                let items: Vec<u64> =
                    if from == 1_000 { vec![] } else { (from..from + u64::from(limit)).collect() };
                let to = from + u64::from(limit.max(1));
                Ok(Page { items, next: (to < 2_500).then(|| to.to_string()) })
            })
            .await
            .expect("listed");
        (page.items, page.next, asked)
    }

    #[tokio::test]
    async fn a_small_limit_is_one_page_and_tells_where_to_go_on() {
        assert_eq!(listed(3, false).await, (vec![0, 1, 2], Some("3".to_owned()), vec![3]));
    }

    #[tokio::test]
    async fn everything_goes_through_empty_pages_and_never_asks_for_too_much() {
        let (items, next, asked) = listed(1, true).await;
        assert_eq!((items.len(), next, asked), (2_000, None, vec![1_000; 3]));
        let (items, next, asked) = listed(1_200, false).await;
        assert_eq!((items.len(), next.as_deref()), (1_200, Some("1400")));
        assert_eq!(asked, [1_000, 200, 200]);
    }
}
