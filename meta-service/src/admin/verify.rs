//! Verifies a shard: its sites read all their files, and what they read is compared.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use axum::{Json, extract::State};
use futures_util::future::join_all;
use holdfast_admin_api::{Problem, RunCheck, SiteCheck, Verified, Verify};
use holdfast_control::storage_view::{ClusterView, ShardView, SiteView};
use holdfast_proto::storage::{
    VerifiedReplica, VerifiedRun, VerifyShardReply, VerifyShardRequest,
    storage_client::StorageClient,
};
use tokio::time::timeout;
use tonic::Streaming;

use super::{
    Api,
    asking::{Asking, CALL},
    cluster::{self, find_shard, find_site},
    extract::{Asked, Lead, Shard},
    problem::{Kind, Refused},
};

/// Sites tell how far they are twice a second; one that says nothing for so long has stopped.
const SILENCE: Duration = Duration::from_secs(60);

/// Reads all files of a shard on its sites, computes their checksums, and compares the replicas. It answers when all is
/// read.
#[utoipa::path(
    post, path = "/shards/{shard}/verify", tag = "shards",
    params(("shard" = u32, Path, description = "From 0 on"), Verify),
    responses((status = OK, body = Verified), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn verify(
    State(api): State<Arc<Api>>,
    Lead(leading): Lead,
    Shard(shard): Shard,
    Asked(query): Asked<Verify>,
) -> Result<Json<Verified>, Refused> {
    let view = cluster::view(&leading).await?;
    let asking = Asking::new(&view, &api.peers);
    let sites = sites(&view, find_shard(&view, shard)?, query.site.as_deref())?;
    let Ok(_permit) = api.verifications.try_acquire() else {
        let most = api.limits.verifications_max;
        let detail = format!("{most} shards are verified already: ask again when one is done");
        return Err(Refused::new(Kind::TooManyRequests, detail));
    };
    let bytes_per_s = query.bytes_per_s.unwrap_or(0);
    let asked = sites.into_iter().map(|site| async move {
        let request = VerifyShardRequest { cluster_id: asking.cluster_id(), shard, bytes_per_s };
        (site.info.name.clone(), read_all(&asking, site, request).await)
    });
    let answers = join_all(asked).await;
    let differences = differences(&answers);
    let sites: Vec<SiteCheck> = answers.iter().map(|(name, answer)| check(name, answer)).collect();
    let whole = |site: &SiteCheck| site.error.is_none() && site.bad.is_empty();
    let ok = differences.is_empty() && sites.iter().all(whole);
    Ok(Json(Verified { shard, ok, sites, differences }))
}

/// Sites that have a replica of the shard, or the one that is asked for.
fn sites<'a>(
    view: &'a ClusterView,
    shard: &ShardView,
    asked: Option<&str>,
) -> Result<Vec<&'a SiteView>, Refused> {
    let having = shard.replicas.iter().filter_map(|replica| view.site(replica.site));
    let mut having: Vec<&SiteView> = having.collect();
    having.sort_by_key(|site| &site.info.name);
    let Some(asked) = asked else { return Ok(having) };
    let site = find_site(view, asked)?;
    if having.iter().any(|one| one.info.site_id == site.info.site_id) {
        return Ok(vec![site]);
    }
    let names: Vec<&str> = having.iter().map(|one| one.info.name.as_str()).collect();
    let detail = format!(
        "site {} has no replica of shard {}; those that have: {}",
        site.info.name,
        shard.shard,
        names.join(", ")
    );
    Err(Refused::new(Kind::Replica, detail))
}

/// What a site read, or why it did not.
async fn read_all(
    asking: &Asking<'_>,
    site: &SiteView,
    request: VerifyShardRequest,
) -> Result<VerifiedReplica, String> {
    let call = |mut peer: StorageClient<_>| async move { peer.verify_shard(request).await };
    let replies = asking.peers.site(&site.info.address, CALL, call).await;
    last(replies.map_err(|status| status.message().to_owned())?).await
}

async fn last(mut replies: Streaming<VerifyShardReply>) -> Result<VerifiedReplica, String> {
    loop {
        let silent = |_| format!("it has said nothing for {} s", SILENCE.as_secs());
        let reply = timeout(SILENCE, replies.message()).await.map_err(silent)?;
        match reply.map_err(|status| status.message().to_owned())? {
            Some(VerifyShardReply { done: Some(done), .. }) => return Ok(done),
            Some(_) => {}
            None => return Err("it ended before it was done".to_owned()),
        }
    }
}

fn check(name: &str, answer: &Result<VerifiedReplica, String>) -> SiteCheck {
    let (replica, error) = match answer {
        Ok(replica) => (replica.clone(), None),
        Err(error) => (VerifiedReplica::default(), Some(error.clone())),
    };
    let bad = replica.runs.iter().filter(|run| !run.problem.is_empty());
    let bad = bad.map(|run| {
        let row = run.run.unwrap_or_default();
        RunCheck {
            generation: row.generation,
            first_position: row.first_position,
            end_position: row.end_position,
            problem: run.problem.clone(),
        }
    });
    SiteCheck {
        site: name.to_owned(),
        error,
        applied_index: replica.applied_index,
        runs: replica.runs.len() as u64,
        bytes: replica.runs.iter().filter_map(|run| run.run).map(|run| run.bytes).sum(),
        bad: bad.collect(),
    }
}

/// Runs that are not the same file everywhere. Damaged and missing ones are told at their sites.
fn differences(answers: &[(String, Result<VerifiedReplica, String>)]) -> Vec<String> {
    // Generation, first position and end of a run; sites with the hashes of their files.
    type Files<'a> = Vec<(&'a str, u64)>;
    let mut by_run: BTreeMap<(u64, u64, u64), Files<'_>> = BTreeMap::new();
    for (name, answer) in answers {
        let whole = |run: &&VerifiedRun| run.problem.is_empty();
        for run in answer.iter().flat_map(|replica| &replica.runs).filter(whole) {
            let row = run.run.unwrap_or_default();
            let place = (row.generation, row.first_position, row.end_position);
            by_run.entry(place).or_default().push((name, run.file_hash));
        }
    }
    let differs = by_run.into_iter().filter(|(_, files)| {
        files.iter().any(|(_, hash)| Some(*hash) != files.first().map(|(_, first)| *first))
    });
    let told = differs.map(|((generation, first, end), files)| {
        let files: Vec<String> =
            files.iter().map(|(site, hash)| format!("{site} has {hash:016x}")).collect();
        format!("generation {generation}, positions {first} to {end}: {}", files.join(", "))
    });
    told.collect()
}

#[cfg(test)]
mod tests {
    use holdfast_proto::shard::RunRow;

    use super::*;

    fn replica(runs: &[(u64, u64, &str)]) -> Result<VerifiedReplica, String> {
        let run = |(first, hash, problem): &(u64, u64, &str)| VerifiedRun {
            run: Some(RunRow {
                generation: 1,
                first_position: *first,
                end_position: first + 9,
                ..RunRow::default()
            }),
            file_hash: *hash,
            problem: (*problem).to_owned(),
        };
        Ok(VerifiedReplica { applied_index: 7, runs: runs.iter().map(run).collect() })
    }

    #[test]
    fn only_files_of_the_same_positions_are_compared() {
        let answers = [
            ("a".to_owned(), replica(&[(1, 5, ""), (10, 6, "")])),
            ("b".to_owned(), replica(&[(1, 5, ""), (10, 0, "missing")])),
            ("c".to_owned(), replica(&[(1, 5, ""), (20, 8, "")])),
            ("d".to_owned(), Err("down".to_owned())),
        ];
        assert!(differences(&answers).is_empty());
        assert_eq!(check("b", &answers[1].1).bad[0].problem, "missing");
        assert_eq!(check("d", &answers[3].1).error.as_deref(), Some("down"));
    }

    #[test]
    fn files_that_differ_are_named_with_their_sites() {
        let answers =
            [("a".to_owned(), replica(&[(1, 5, "")])), ("b".to_owned(), replica(&[(1, 6, "")]))];
        let told = differences(&answers);
        assert_eq!(told.len(), 1);
        assert!(told[0].contains("positions 1 to 10: a has 0000000000000005, b has"), "{told:?}");
    }
}
