//! Simulated storage sites: the shard state machine, the site log and runs together on disks that lose,
//! tear, refuse and flip what is written. The test is `tests/storage`; this library is empty.
