//! A peer that averages a vector with whoever else is in the run, and keeps a shared state with them, while peers come
//! and go. `average MASTER STEPS VALUE`; 0 steps: for ever.

use pccl::{Communicator, Configuration, ErrorCode, ReduceOp, SharedState, Strategy};
use std::time::Duration;

fn run(master: &str, steps: usize, value: f32) -> Result<(), pccl::Error> {
    let communicator = Communicator::new(&Configuration::new(master))?;
    communicator.connect()?;

    let mut weights = vec![value; 1024];
    let mut gradient = vec![0f32; 1024];
    let mut revision = 0;

    // connect has brought us to where the others leave their join point: our first turn begins without one.
    let mut just_joined = true;
    let mut done = 0;
    while steps == 0 || done < steps {
        if !just_joined {
            communicator.update_topology()?;
        }
        just_joined = false;
        if communicator.world_size()? < 2 {
            // Alone: somebody may join at the next join point. There is no hurry to ask again.
            std::thread::sleep(Duration::from_millis(20));
            continue;
        }
        let mut state = SharedState::new(revision);
        state.add("weights", &mut weights);
        let info = communicator.synchronize(&mut state, Strategy::EnforcePopular)?;
        if info.received_bytes > 0 {
            println!("received the weights of step {}", state.revision);
        }
        revision = state.revision + 1;

        gradient.fill(value);
        match communicator.all_reduce(&mut gradient, ReduceOp::Average) {
            Ok(info) => {
                for (weight, step) in weights.iter_mut().zip(&gradient) {
                    *weight += step;
                }
                let (peers, average, weight) = (info.world_size, gradient[0], weights[0]);
                println!("step {revision}: {peers} peers, average {average}, weight {weight}");
                done += 1;
            }
            // The gradient is whole: the next turn does it again with those who are left.
            Err(error) if error.code() == ErrorCode::RankConnectionLost => println!("lost a peer"),
            Err(error) if error.code() == ErrorCode::TooFewPeers => println!("alone"),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let numbers = match &arguments[..] {
        [_, _, steps, value] => steps.parse().ok().zip(value.parse().ok()),
        _ => None,
    };
    match numbers.map(|(steps, value)| run(&arguments[1], steps, value)) {
        Some(Ok(())) => {}
        Some(Err(error)) => {
            eprintln!("average: {error}");
            std::process::exit(1);
        }
        None => {
            eprintln!("usage: average MASTER STEPS VALUE");
            std::process::exit(2);
        }
    }
}
