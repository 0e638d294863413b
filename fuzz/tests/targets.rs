//! Each target on its corpus and on random inputs: FUZZ_CASES of them, 3000 by default. With the engine of `make fuzz`
//! underneath, one target runs guided by coverage for as long as wanted.

use std::fs;
use std::path::Path;

fn run(name: &str) {
    let target = causeway_fuzz::target(name);
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(name);
    let files: Vec<_> = fs::read_dir(&corpus)
        .expect("each target has a corpus")
        .map(|entry| entry.expect("a readable entry").path())
        .collect();
    assert!(!files.is_empty(), "{} is empty", corpus.display());
    for file in files {
        target(&fs::read(file).expect("a readable file"));
    }
    let cases = std::env::var("FUZZ_CASES").ok();
    let cases = cases.and_then(|cases| cases.parse().ok()).unwrap_or(3000);
    bolero::check!()
        .with_max_len(4000)
        .with_iterations(cases)
        .for_each(|input: &[u8]| target(input));
}

macro_rules! targets {
    ($($name:ident)*) => {
        $(
            #[test]
            fn $name() {
                run(stringify!($name));
            }
        )*

        #[test]
        fn every_target_is_run() {
            let names = causeway_fuzz::TARGETS.map(|(name, _)| name);
            assert_eq!(names.as_slice(), [$(stringify!($name)),*]);
        }
    };
}

targets! { bytes frames hpack model head baggage forwarded authority }
