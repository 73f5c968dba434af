//! How a transaction of TPC-C names a customer: by number, or by last name (clauses 2.5.1.2 and 2.6.1.2).
#![forbid(unsafe_code)]

use super::random::{NuRand, last_name};
use super::rows::number;
use super::schema::{CUSTOMER_BY_NAME, NameKey, Scale};
use mako::txn::{Abort, Txn};
use mako::types::{Prng, Value};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Selector {
    Number(u32),
    /// The number of a last name.
    LastName(u32),
}

impl Selector {
    /// 60 % by last name.
    pub fn draw(rng: &mut Prng, nurand: &NuRand, scale: Scale) -> Selector {
        if rng.u32(0..100) < BY_NAME_PCT {
            Selector::LastName(nurand.last_name(rng, scale.last_names()))
        } else {
            Selector::Number(nurand.customer(rng, scale.customers))
        }
    }

    /// The customer meant: of several with one last name, the middle one in the order of first names, rounded up.
    pub async fn find(self, txn: &Txn, w: u32, d: u32) -> Result<u32, Abort> {
        let name = match self {
            Selector::Number(c) => return Ok(c),
            Selector::LastName(name) => last_name(name),
        };
        let (from, to) = NameKey::range(w, d, name.as_bytes());
        let namesakes =
            txn.scan(CUSTOMER_BY_NAME, from.as_bytes(), Some(to.as_bytes()), NAMESAKES_MAX).await?;
        let middle = namesakes.len().div_ceil(2).saturating_sub(1);
        let found = namesakes.iter().nth(middle).map(|(_, c)| number(c));
        found.ok_or(TORN)
    }
}

/// A row that the standard says exists.
pub fn present(row: Option<Value>) -> Result<Value, Abort> {
    row.ok_or(TORN)
}

/// Before it is validated, a distributed transaction may have read states that never were together; a row
/// missing there is such a state, so it ends as the conflict it is. Were a row truly missing, the conflicts would
/// not end, and the checks after the run would say why.
const TORN: Abort = Abort::Conflict { attempts: 1 };

const BY_NAME_PCT: u32 = 60;
/// All customers of a district could share a name.
const NAMESAKES_MAX: usize = Scale::FULL.customers as usize;
