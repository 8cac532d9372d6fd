//! The wrapper against a real master, whose address is in PCCL_TEST_MASTER. Peers of a case are threads of this process,
//! in a group of their own, so that cases do not wait for each other.

use pccl::*;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

fn master() -> String {
    std::env::var("PCCL_TEST_MASTER").expect("PCCL_TEST_MASTER names no master: see bindings/run-tests.sh")
}

fn next_group() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(2000);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

fn peer(group: u32) -> Communicator {
    let communicator = Communicator::new(&Configuration::new(master()).in_group(group)).unwrap();
    communicator.connect().unwrap();
    communicator
}

/// Lets another in: its connect returns where the last of these does.
fn until_two(communicator: &Communicator) {
    while communicator.world_size().unwrap() < 2 {
        communicator.update_topology().unwrap();
    }
}

/// Two members of a group of their own, each on a thread.
fn pair(body: impl Fn(&Communicator, usize) + Sync) {
    let group = next_group();
    thread::scope(|threads| {
        for i in 0..2 {
            let body = &body;
            threads.spawn(move || {
                let communicator = peer(group);
                until_two(&communicator);
                body(&communicator, i);
            });
        }
    });
}

fn tagged(tag: u64) -> ReduceOptions {
    ReduceOptions::tagged(tag)
}

#[test]
fn all_reduce_of_several_types() {
    pair(|communicator, i| {
        let mut bytes = [i as u8 + 1; 100];
        assert_eq!(communicator.all_reduce(&mut bytes, ReduceOp::Sum).unwrap().world_size, 2);
        assert_eq!(bytes, [3; 100]);
        let mut doubles = vec![i as f64; 10];
        communicator.all_reduce(&mut doubles, ReduceOp::Average).unwrap();
        assert_eq!(doubles, [0.5; 10]);
        let mut ones = [BFloat16(0x3F80); 3];
        communicator.all_reduce(&mut ones, ReduceOp::Sum).unwrap();
        assert_eq!(ones, [BFloat16(0x4000); 3]);
        let (send, mut receive) = ([i as i64 + 1; 5], [0; 5]);
        let info = communicator.all_reduce_into(&send, &mut receive, ReduceOp::Product, &tagged(3)).unwrap();
        assert!(info.sent_bytes > 0 && info.parts.is_empty());
        assert_eq!((send, receive), ([i as i64 + 1; 5], [2; 5]));
    });
}

#[test]
fn operations_in_a_scope() {
    pair(|communicator, i| {
        let mut buffers = vec![vec![i as f32; 1000]; 8];
        let kept = vec![1i32; 4];
        let (mut sum, mut forgotten) = (vec![0i32; 4], [i as f32; 10]);
        let first = communicator.scope(|scope| {
            let mut operations: Vec<_> = Vec::new();
            for (tag, buffer) in buffers.iter_mut().enumerate() {
                operations.push(scope.all_reduce(buffer, ReduceOp::Average, &tagged(tag as u64)).unwrap());
            }
            std::mem::forget(scope.all_reduce(&mut forgotten, ReduceOp::Sum, &tagged(100)).unwrap());
            drop(scope.all_reduce_into(&kept, &mut sum, ReduceOp::Sum, &tagged(101)).unwrap());
            assert_eq!(communicator.update_topology().unwrap_err().code(), ErrorCode::PendingAsyncOps);
            let (outcome, buffer) = operations.remove(0).wait_for_buffer();
            assert_eq!(outcome.unwrap().world_size, 2);
            // The others end with the scope.
            buffer[0]
        });
        assert_eq!(first, 0.5);
        assert!(buffers.iter().flatten().all(|value| *value == 0.5));
        assert_eq!((forgotten, sum, kept), ([1.0; 10], vec![2; 4], vec![1; 4]));
        // Nothing is in flight any more.
        communicator.update_topology().unwrap();
    });
}

#[test]
fn a_panic_in_a_scope_waits_first() {
    pair(|communicator, i| {
        let mut buffer = [i as f32; 10];
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            communicator.scope(|scope| {
                std::mem::forget(scope.all_reduce(&mut buffer, ReduceOp::Sum, &tagged(1)).unwrap());
                std::panic::resume_unwind(Box::new("meant"));
            })
        }));
        assert!(panicked.is_err());
        assert_eq!(buffer, [1.0; 10]);
        communicator.update_topology().unwrap();
    });
}

#[test]
fn options_and_error_feedback() {
    pair(|communicator, i| {
        let mut values: Vec<f32> = (0..4096).map(|n| (n + i) as f32).collect();
        let options = ReduceOptions {
            codec: Codec::Int4,
            error_feedback: true,
            on_loss: OnLoss::Resume,
            ..ReduceOptions::default()
        };
        let info = communicator.all_reduce_with(&mut values, ReduceOp::Average, &options).unwrap();
        assert!(info.sent_bytes < 4096);
        assert_eq!(info.parts, [ReducePart { first_element: 0, element_count: 4096, world_size: 2 }]);
        communicator.free_error_feedback(0).unwrap();
        let error = communicator.free_error_feedback(0).unwrap_err();
        assert_eq!(error.code(), ErrorCode::InvalidArgument);
        let mut integers = [1, 2, 3];
        let error = communicator.all_reduce_with(&mut integers, ReduceOp::Sum, &options).unwrap_err();
        assert_eq!(error.code(), ErrorCode::InvalidArgument);
    });
}

#[test]
fn several_with_retry() {
    pair(|communicator, i| {
        let (mut a, mut b, c, mut result) = ([i as f64; 10], [i as f32; 20], [i as i32; 30], [0; 30]);
        let mut reductions = [
            Reduction::new(&mut a, ReduceOp::Sum, 1),
            Reduction::new(&mut b, ReduceOp::Average, 2),
            Reduction::into(&c, &mut result, ReduceOp::Maximum, 3).unwrap(),
        ];
        let options = ReduceOptions::default();
        assert_eq!(communicator.all_reduce_multiple_with_retry(&mut reductions, 2, &options).unwrap().world_size, 2);
        assert_eq!((a, b, result), ([1.0; 10], [0.5; 20], [1; 30]));
        communicator.all_reduce_with_retry(&mut a, ReduceOp::Sum, &options).unwrap();
        assert_eq!(a, [2.0; 10]);
    });
}

#[test]
fn the_other_collectives() {
    pair(|communicator, _| {
        let options = ReduceOptions::default();
        let place = communicator.place().unwrap();
        assert_eq!(place.world_size, 2);
        let (mine, mut all, mut block) = ([place.rank as i32 + 1; 3], [0; 6], [0; 3]);
        communicator.all_gather(&mine, &mut all, &options).unwrap();
        assert_eq!(all, [1, 1, 1, 2, 2, 2]);
        communicator.reduce_scatter(&all, &mut block, ReduceOp::Sum, &options).unwrap();
        assert_eq!(block, [if place.rank == 0 { 2 } else { 4 }; 3]);
        communicator.broadcast(&mut block, 1, &options).unwrap();
        assert_eq!(block, [4; 3]);
        communicator.barrier(7).unwrap();

        let (mut gathered, mut scattered) = ([0; 6], [0; 3]);
        communicator.scope(|scope| {
            let gather = scope.all_gather(&mine, &mut gathered, &tagged(1)).unwrap();
            let scatter = scope.reduce_scatter(&all, &mut scattered, ReduceOp::Minimum, &tagged(2)).unwrap();
            let broadcast = scope.broadcast(&mut block, 0, &tagged(3)).unwrap();
            broadcast.wait().unwrap();
            scatter.wait().unwrap();
            gather.wait().unwrap();
        });
        assert_eq!((gathered, scattered), (all, mine));

        let error = communicator.all_gather(&mine, &mut [0; 5], &options).unwrap_err();
        assert!(error.to_string().contains("5 elements"), "{}", error);
    });
}

#[test]
fn shared_state() {
    pair(|communicator, i| {
        let (mut weights, mut own) = (vec![i as f32; 5000], [i as u8; 4]);
        let mut state = SharedState::new(if i == 0 { 7 } else { 0 });
        state.add("weights", &mut weights);
        state.add_with("own", &mut own, EntryOptions { may_differ: true, ..Default::default() });
        let strategy = if i == 0 { Strategy::SendOnly } else { Strategy::ReceiveOnly };
        let info = communicator.synchronize(&mut state, strategy).unwrap();
        assert_eq!(info.received_bytes > 0, i == 1);
        assert_eq!(state.revision, 7);
        assert_eq!((weights[4999], own), (0.0, [i as u8; 4]));

        let mut state = SharedState::new(8);
        state.add_with("weights", &mut weights, EntryOptions { is_unchanged: true, ..Default::default() });
        state.add_with("own", &mut own, EntryOptions { may_differ: true, ..Default::default() });
        assert_eq!(communicator.synchronize(&mut state, Strategy::EnforcePopular).unwrap().received_bytes, 0);

        let mut state = SharedState::new(9);
        state.add("a\0b", &mut weights);
        let error = communicator.synchronize(&mut state, Strategy::EnforcePopular).unwrap_err();
        assert!(error.to_string().contains("NUL"), "{}", error);
    });
}

#[test]
fn joint_calls() {
    pair(|communicator, _| {
        assert!(!communicator.are_peers_pending().unwrap());
        communicator.optimize_topology().unwrap();
        communicator.update_topology().unwrap();
        assert_eq!(communicator.world_size().unwrap(), 2);
        assert!(communicator.global_world_size().unwrap() >= 2 && communicator.largest_world_size().unwrap() >= 2);
        assert!(communicator.distinct_peer_groups().unwrap() >= 1);
        // Nobody leaves before the other has looked.
        communicator.barrier(0).unwrap();
    });
}

#[test]
fn ensembles() {
    let configuration =
        |size| Configuration { ensemble: Some((4242, size)), ..Configuration::new(master()).in_group(next_group()) };
    let communicator = Communicator::new(&configuration(1)).unwrap();
    communicator.connect().unwrap();
    assert_eq!(communicator.world_size().unwrap(), 1);
    assert_eq!(Communicator::new(&configuration(0)).unwrap_err().code(), ErrorCode::InvalidArgument);
}

#[test]
fn peers_with_different_counts() {
    pair(|communicator, i| {
        let mut buffer = vec![1f32; 10 + i];
        let error = communicator.all_reduce(&mut buffer, ReduceOp::Sum).unwrap_err();
        assert_eq!(error.code(), ErrorCode::InvalidArgument);
        assert!(error.to_string().contains("counts") && error.to_string().contains("tag 0"), "{}", error);
        assert_eq!(buffer[9], 1.0);
    });
}

/// What another process does that is killed: three reductions, a line, and nothing more.
#[test]
#[ignore = "run by a_killed_peer only"]
fn victim() {
    let communicator = peer(std::env::var("PCCL_TEST_GROUP").unwrap().parse().unwrap());
    let mut buffer = [2f32; 1000];
    for _ in 0..3 {
        communicator.all_reduce(&mut buffer, ReduceOp::Maximum).unwrap();
    }
    eprintln!("ready");
    loop {
        thread::park();
    }
}

/// Kills the process with the block, and leaves no zombie.
struct Victim(Child);

impl Victim {
    fn start(group: u32) -> Victim {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "victim", "--ignored", "--nocapture"]).env("PCCL_TEST_GROUP", group.to_string());
        Victim(command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap())
    }

    fn wait_until_ready(&mut self) {
        let lines = BufReader::new(self.0.stderr.take().unwrap()).lines();
        assert!(lines.map(Result::unwrap).any(|line| line == "ready"), "the victim ended by itself");
    }

    fn end(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_killed_peer() {
    let group = next_group();
    let communicator = peer(group);
    let mut victim = Victim::start(group);
    until_two(&communicator);
    let mut buffer = [1f32; 1000];
    for _ in 0..3 {
        assert_eq!(communicator.all_reduce(&mut buffer, ReduceOp::Maximum).unwrap().world_size, 2);
    }
    victim.wait_until_ready();

    // The victim never enters this one, so it cannot end before the victim does.
    buffer.fill(5.0);
    communicator.scope(|scope| {
        let operation = scope.all_reduce(&mut buffer, ReduceOp::Sum, &ReduceOptions::default()).unwrap();
        victim.end();
        let (outcome, buffer) = operation.wait_for_buffer();
        let error = outcome.unwrap_err();
        assert_eq!(error.code(), ErrorCode::RankConnectionLost);
        assert!(error.to_string().contains("lost"), "{}", error);
        assert_eq!(buffer, [5.0; 1000]);
    });
    assert_eq!(communicator.world_size().unwrap(), 1);
    let error = communicator.all_reduce_with_retry(&mut buffer, ReduceOp::Sum, &Default::default()).unwrap_err();
    assert_eq!(error.code(), ErrorCode::TooFewPeers);

    thread::scope(|threads| {
        threads.spawn(|| peer(group).all_reduce(&mut [1f32; 1000], ReduceOp::Sum).unwrap());
        until_two(&communicator);
        assert_eq!(communicator.all_reduce(&mut buffer, ReduceOp::Sum).unwrap().world_size, 2);
    });
    assert_eq!(buffer, [6.0; 1000]);
}

#[test]
fn wrong_arguments() {
    let wrong = [
        "",
        "nonsense",
        "127.0.0.1",
        "127.0.0.1:",
        "127.0.0.1:http",
        "127.0.0.1:0",
        ":1",
        "127.0.0.1:65536",
        "no such host:1",
    ];
    for address in wrong {
        let error = Communicator::new(&Configuration::new(address)).unwrap_err();
        assert_eq!(error.code(), ErrorCode::InvalidArgument);
        assert!(error.to_string().contains(address), "{}", error);
    }
    assert!(Communicator::new(&Configuration::new("[::1]:48148")).is_ok());

    let communicator = Communicator::new(&Configuration::new(master()).in_group(next_group())).unwrap();
    assert_eq!(communicator.world_size().unwrap_err().code(), ErrorCode::InvalidUsage);
    communicator.connect().unwrap();
    assert_eq!(communicator.connect().unwrap_err().code(), ErrorCode::InvalidUsage);
    let error = communicator.all_reduce(&mut [0f32; 4], ReduceOp::Sum).unwrap_err();
    assert_eq!(error.code(), ErrorCode::TooFewPeers);
    assert!(error.to_string().contains("alone"), "{}", error);
    let options = ReduceOptions::default();
    let error = communicator.all_reduce_into(&[0f32; 4], &mut [0f32; 3], ReduceOp::Sum, &options).unwrap_err();
    assert!(error.to_string().contains("4 elements to send, and room for 3"), "{}", error);
    assert_eq!(communicator.all_reduce(&mut [0f32; 0], ReduceOp::Sum).unwrap_err().code(), ErrorCode::InvalidArgument);
}

#[test]
fn masters() {
    let taken = Master::new(master()).unwrap();
    assert_eq!(taken.interrupt().unwrap_err().code(), ErrorCode::InvalidUsage);
    let error = taken.run().unwrap_err();
    assert_eq!(error.code(), ErrorCode::InvalidUsage);
    assert!(error.to_string().contains(&master()), "{}", error);
}
