//! The keys of the cluster file, table by table: what may be there, what must, and how each is written.
//!
//! Data only; reading the values is `file`'s affair.
#![forbid(unsafe_code)]

/// The keys of one kind of table.
pub(super) struct Schema {
    /// As the file writes its head.
    pub written: &'static str,
    /// What a message puts before a key.
    pub prefix: &'static str,
    pub repeated: bool,
    pub keys: &'static [Key],
}

pub(super) struct Key {
    pub name: &'static str,
    /// Why the key must be there; `None` when it may be left out.
    pub needed: Option<&'static str>,
    pub example: &'static str,
}

impl Schema {
    pub fn names(&self) -> Vec<&'static str> {
        self.keys.iter().map(|key| key.name).collect()
    }

    /// The known key that differs from `typed` by a slip or two.
    pub fn nearest(&self, typed: &str) -> Option<&'static str> {
        const SLIPS_MAX: usize = 2;
        let near = self.names().into_iter().map(|name| (slips(name, typed), name));
        near.filter(|(slips, name)| *slips <= SLIPS_MAX && *slips < name.len()).min().map(|(_, name)| name)
    }
}

/// Letters to insert, remove or replace to get from one word to the other (Levenshtein's distance).
fn slips(known: &str, typed: &str) -> usize {
    if known.len().abs_diff(typed.len()) > known.len() {
        return usize::MAX;
    }
    let mut row: Vec<usize> = (0..=typed.len()).collect();
    for (i, a) in known.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in typed.bytes().enumerate() {
            let replaced = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[typed.len()]
}

const fn needed(name: &'static str, why: &'static str, example: &'static str) -> Key {
    Key { name, needed: Some(why), example }
}

const fn optional(name: &'static str, example: &'static str) -> Key {
    Key { name, needed: None, example }
}

pub(super) static ROOT: Schema = Schema {
    written: "a cluster file",
    prefix: "",
    repeated: false,
    keys: &[
        needed("cluster", "the cluster needs a name, by which its frames are known", "[cluster]"),
        needed("node", "a cluster has at least one node", "[[node]]"),
        needed("shard", "a cluster has at least one shard", "[[shard]]"),
        optional("table", "[[table]]"),
        optional("link", "[[link]]"),
    ],
};

pub(super) static CLUSTER: Schema = Schema {
    written: "[cluster]",
    prefix: "cluster.",
    repeated: false,
    keys: &[
        needed("name", "frames of another cluster are told apart by it", r#"name = "demo""#),
        optional("durability", r#"durability = "quorum-disk""#),
        optional("key_file", r#"key_file = "cluster.key""#),
        optional("plaintext", "plaintext = true"),
        optional("election_timeout", r#"election_timeout = "1s""#),
        optional("heartbeat_interval", r#"heartbeat_interval = "100ms""#),
        optional("exchange_interval", r#"exchange_interval = "200us""#),
        optional("batch", r#"batch = "64KiB""#),
        optional("batch_delay", r#"batch_delay = "1ms""#),
        optional("max_speculation", r#"max_speculation = "10s""#),
        optional("spin", r#"spin = "50us""#),
        optional("log", r#"log = "4GiB""#),
    ],
};

pub(super) static NODE: Schema = Schema {
    written: "[[node]]",
    prefix: "node.",
    repeated: true,
    keys: &[
        needed("name", "shards and commands speak of a node by name", r#"name = "n1""#),
        needed("zone", "emulated links and replicas are laid out by zone", r#"zone = "east""#),
        needed("listen", "peers reach the node there", r#"listen = "127.0.0.1:7400""#),
        optional("cores", "cores = [0, 1] or cores = 2"),
        optional("nic", r#"nic = "udp""#),
        optional("subnet", r#"subnet = "10.0.0.0/24""#),
        optional("gateway", r#"gateway = "10.0.0.254""#),
        optional("poll", r#"poll = "adaptive""#),
        needed("data", "promised ballots are on disk in every mode of durability", r#"data = "data/n1""#),
        optional("resp", r#"resp = "127.0.0.1:6380""#),
        optional("http", r#"http = "127.0.0.1:9180""#),
    ],
};

pub(super) static SHARD: Schema = Schema {
    written: "[[shard]]",
    prefix: "shard.",
    repeated: true,
    keys: &[
        needed("replicas", "a shard lives on the nodes it names", r#"replicas = ["n1", "n2", "n3"]"#),
        optional("partitions", "partitions = 2"),
    ],
};

pub(super) static TABLE: Schema = Schema {
    written: "[[table]]",
    prefix: "table.",
    repeated: true,
    keys: &[
        needed("name", "transactions speak of a table by name", r#"name = "default""#),
        needed("routing", "it decides where each key lives, and cannot change later", r#"routing = "tag""#),
    ],
};

pub(super) static LINK: Schema = Schema {
    written: "[[link]]",
    prefix: "link.",
    repeated: true,
    keys: &[
        needed("between", "a link joins two zones", r#"between = ["east", "west"]"#),
        needed("delay", "a link that delays nothing says so: 0ms", r#"delay = "25ms""#),
        optional("jitter", r#"jitter = "1ms""#),
        optional("loss", "loss = 0.0"),
    ],
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_pen_is_recognised() {
        for (typed, meant) in
            [("lisen", "listen"), ("listne", "listen"), ("zones", "zone"), ("coers", "cores")]
        {
            assert_eq!(NODE.nearest(typed), Some(meant), "{typed}");
        }
        for typed in ["", "q", "replicas", "colour"] {
            assert_eq!(NODE.nearest(typed), None, "{typed}");
        }
    }
}
