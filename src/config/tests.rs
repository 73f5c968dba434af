//! Tests of the whole way from text to configuration; the parts have theirs beside them.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::{env, fs};

use super::*;
use proptest::prelude::*;

const CPUS: usize = 4;

fn testdata() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/config")
}

fn good() -> String {
    fs::read_to_string(testdata().join("good.toml")).unwrap()
}

/// Each `testdata/config/NAME.toml` gives exactly what `NAME.txt` says: its mistakes, or its description.
/// A message that loses its line, bound or remedy costs an operator an hour; here it is seen in review.
/// After a wanted change, run with `UPDATE_TESTDATA=1` and read the difference.
#[test]
fn every_file_gets_the_answer_written_beside_it() {
    let mut files: Vec<PathBuf> =
        fs::read_dir(testdata()).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    files.sort();
    assert!(files.len() >= 10, "{files:?}");
    for path in files {
        let text = fs::read_to_string(&path).unwrap();
        let origin = path.file_name().unwrap().to_string_lossy();
        let answer = match Config::parse_where(&text, &origin, CPUS, |_| false) {
            Ok(config) => describe(&config),
            Err(mistakes) => format!("{mistakes}\n"),
        };
        let expected = path.with_extension("txt");
        if env::var_os("UPDATE_TESTDATA").is_some() {
            fs::write(&expected, &answer).unwrap();
        }
        assert_eq!(answer, fs::read_to_string(&expected).unwrap_or_default(), "{origin}");
    }
}

#[test]
fn the_file_of_a_configuration_means_that_configuration() {
    let config = Config::parse(&good(), "good.toml", CPUS).unwrap();
    assert_eq!(Config::parse(&config.to_toml(), "written", CPUS), Ok(config));
}

/// The example an operator starts from must be right on any machine, however small.
#[test]
fn the_example_cluster_passes_on_machines_of_every_size() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/cluster.toml");
    let configs =
        [1, 2, 64].map(|cpus| Config::load(&path, cpus).unwrap_or_else(|mistakes| panic!("{mistakes}")));
    assert!(configs.iter().all(|config| *config == configs[0]));
    assert_eq!((configs[0].nodes.len(), configs[0].shards.len()), (3, 2));
}

#[test]
fn a_file_that_cannot_be_read_is_a_mistake_like_any_other() {
    let mistakes = Config::load(Path::new("no/such/file.toml"), 1).unwrap_err();
    assert!(mistakes.to_string().starts_with("error: the cluster file cannot be read (no/such/file.toml): "));
}

/// A key file whose directory is missing is found at `mako check`, not at the first frame.
#[test]
fn only_load_looks_at_the_disk() {
    let text = good().replace("cluster.key", "no/such/directory/cluster.key");
    assert!(Config::parse(&text, "good.toml", CPUS).is_ok());
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("cluster.toml");
    fs::write(&path, text).unwrap();
    let mistakes = Config::load(&path, CPUS).unwrap_err().to_string();
    assert!(mistakes.contains("cluster.key_file") && mistakes.lines().count() == 1, "{mistakes}");
}

/// The answer for a good file with these lines in [cluster] instead of its key file.
fn sealed_with(lines: &str, listen: &str) -> Result<Config, String> {
    let text = good().replace("key_file = \"cluster.key\"", lines);
    let text = ["10.0.0.1:", "10.0.0.3:"].iter().fold(text, |text, far| text.replace(far, listen));
    let text = text.replace(
        "nic = \"dpdk:net_af_xdp0,iface=eth1\"\nsubnet = \"10.0.0.0/24\"\ngateway = \"10.0.0.254\"\n",
        "",
    );
    Config::parse(&text, "f", CPUS).map_err(|mistakes| mistakes.to_string())
}

/// Whoever forgets the key must not end up with a cluster that anybody can write to.
#[test]
fn frames_go_in_the_open_beyond_a_machine_only_when_the_file_says_so() {
    let key = "key_file = \"cluster.key\"";
    let (near, far) = ("127.0.0.1:", "10.0.0.1:");
    let mut outcomes = Vec::new();
    for written in [true, false] {
        for lines in ["", "plaintext = true", "plaintext = false"] {
            for listen in [near, far] {
                let lines = if written { format!("{key}\n{lines}") } else { lines.to_string() };
                let outcome = sealed_with(&lines, listen)
                    .map(|config| (config.key_file.is_some(), config.is_exposed()));
                outcomes.push(outcome.map_err(|why| why.split(" (f:").next().unwrap().to_string()));
            }
        }
    }
    let (sealed, both) = (Ok((true, false)), Err("error: cluster.plaintext = true".to_string()));
    let (open, missing) = (Ok((false, false)), Err("error: cluster.key_file is missing".to_string()));
    let with_key = [&sealed, &sealed, &both, &both, &sealed, &sealed];
    let without = [&open, &missing, &open, &Ok((false, true)), &missing, &missing];
    assert_eq!(outcomes.iter().collect::<Vec<_>>(), [with_key, without].concat());
    // Only one mistake each, and a remedy that can be copied.
    let forgotten = sealed_with("", far).unwrap_err();
    assert!(
        forgotten.contains("openssl rand -hex 32 > cluster.key") && forgotten.lines().count() == 1,
        "{forgotten}"
    );
    assert!(sealed_with("plaintext = 1", far).unwrap_err().contains("the value is true or false"));
}

/// Nodes that count a peer's cores differently send its partitions' messages to cores that drop them.
#[test]
fn machines_of_different_sizes_never_resolve_one_file_differently() {
    let spread = good().replace("cores = [0, 1]\n", "").replace("cores = [2, 3]\n", "");
    let spread = spread.replace("10.0.0.1:7410", "10.0.0.2:7410");
    let text = spread.replace("10.0.0.2:7410", "10.0.0.1:7410").replace("10.0.0.3:7420", "10.0.0.1:7420");
    let large = Config::parse(&spread, "", 64).unwrap();
    assert_eq!(Config::parse(&spread, "", 5), Ok(large));
    let small = Config::parse(&spread, "", 2).unwrap_err();
    assert!(small.0.iter().all(|mistake| mistake.what == "node.cores is missing"), "{small}");
    assert_eq!(Config::parse(&text, "", 2).unwrap().cores(NodeId(0)), 2);
}

#[test]
fn core_i_listens_on_port_plus_i() {
    let config = Config::parse(&good(), "", CPUS).unwrap();
    let address = config.address(Endpoint { node: NodeId(1), core: crate::types::CoreId(1) });
    assert_eq!(address, "10.0.0.1:7411".parse().unwrap());
}

#[test]
fn names_lead_to_ids_and_back() {
    let config = Config::parse(&good(), "", CPUS).unwrap();
    for (i, node) in config.nodes.iter().enumerate() {
        assert_eq!(config.node(&node.name), Some(NodeId(i as u16)));
    }
    assert_eq!(config.table("stock"), Some(TableId(1)));
    assert_eq!((config.node("n9"), config.table("n1")), (None, None));
    assert_eq!(config.route(TableId(1), &7u32.to_be_bytes()), Route::One(PartitionId(7 % 5)));
}

/// A valid file with pieces of other text put in: gets further into the checks than noise does.
fn mutated() -> impl Strategy<Value = String> {
    let pieces =
        ["\"", "[", "]", "0", "-1", "1e999", "nan", "\n", "n1", "''", "{}", "=", ".", "[[node]]", "é", "\0"];
    let edit = (any::<prop::sample::Index>(), 0..24usize, prop::sample::select(pieces.to_vec()));
    prop::collection::vec(edit, 1..4).prop_map(|edits| {
        let mut chars: Vec<char> = good().chars().collect();
        for (at, removed, piece) in edits {
            let from = at.index(chars.len());
            let to = (from + removed).min(chars.len());
            chars.splice(from..to, piece.chars());
        }
        chars.into_iter().collect()
    })
}

#[test]
fn nesting_without_end_is_a_mistake_and_not_a_stack_overflow() {
    for text in ["a = ".to_string() + &"[".repeat(200_000), "a.".repeat(200_000), "[".repeat(200_000)] {
        assert!(Config::parse(&text, "", CPUS).is_err());
    }
}

proptest! {
    #[test]
    fn hostile_text_is_answered_with_mistakes_and_never_a_panic(text in ".*") {
        let Err(Mistakes(mistakes)) = Config::parse(&text, "", CPUS) else { panic!("accepted {text:?}") };
        prop_assert!(!mistakes.is_empty());
    }

    /// Whatever is let through must mean what it would be written as, or `--write-config` lies.
    #[test]
    fn a_mutated_file_is_refused_or_written_back_to_itself(text in mutated()) {
        match Config::parse(&text, "", CPUS) {
            Ok(config) => prop_assert_eq!(Config::parse(&config.to_toml(), "", CPUS), Ok(config)),
            Err(Mistakes(mistakes)) => prop_assert!(!mistakes.is_empty()),
        }
    }

    #[test]
    fn a_local_cluster_is_written_as_the_file_that_makes_it(
        shards in 1..9usize,
        half in 0..4usize,
        partitions in 1..5usize,
        rtt_ns in 0..4_000_000_000u64,
        cpus in 1..9usize,
    ) {
        let replicas = 2 * half + 1;
        let flags = LocalCluster { shards, replicas, partitions, rtt_ns, cpus, ..LocalCluster::default() };
        let config = Config::local(&flags).unwrap();
        prop_assert_eq!(Config::parse(&config.to_toml(), "", CPUS), Ok(config));
    }
}
