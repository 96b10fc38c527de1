//! The mark of one security rule that several grants share.
//!
//! A rule of several grants lets in exactly what their own rules would. They differ on one side only, the [`Axis`];
//! the mark says which entries of that side's list each grant wants, and when each ends. So the sweeper can take one
//! grant out of the rule and leave the others, with nothing but the rule.

use std::fmt;

use chrono::{DateTime, TimeDelta};
use uuid::Uuid;

use crate::{
    id::GrantId,
    mark::{Installation, Mark, Purpose},
    time::Instant,
};

/// The side of a rule on which the grants that share it differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Axis {
    /// Their sources differ; destinations, ports and protocol are the same.
    Sources,
    /// Their destinations differ; sources, ports and protocol are the same.
    Destinations,
}

/// One grant's part of the rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    /// The grant.
    pub grant: GrantId,
    /// The latest instant at which it could end, in whole seconds.
    pub end: Instant,
    /// The places, in the sorted list of the axis, of the entries that the grant wants: bit 0 for the first.
    pub entries: u8,
}

impl Share {
    /// Whether the grant wants the entry at `place`.
    pub fn wants(&self, place: usize) -> bool {
        place < MAX_ENTRIES && self.entries >> place & 1 == 1
    }
}

/// How many grants fit into one mark of 140 characters.
pub const MAX_SHARES: usize = 4;

/// How many entries the axis of such a rule may have.
pub const MAX_ENTRIES: usize = 6;

/// The mark of a rule that several grants share.
///
/// Text form: `postern:<installation> s=<shares>` where their sources differ, `d=` where their destinations do. Each
/// share is 28 digits to the base 64 (`A-Z`, `a-z`, `0-9`, `-`, `_`, the most significant first): 22 for the
/// grant's id, 5 for the seconds from 2026-01-01T00:00:00Z to its end, 1 for its entries. The longest, four shares of
/// an installation with 16 letters, is 139 characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharedMark {
    /// Whose it is.
    pub installation: Installation,
    /// Where the grants differ.
    pub axis: Axis,
    /// The grants, one to four, in the order of their ids.
    pub shares: Vec<Share>,
}

const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
const ID: usize = 22;
const END: usize = 5;
const SHARE: usize = ID + END + 1;
/// 2026-01-01T00:00:00Z, in seconds since 1970.
const EPOCH: i64 = 1_767_225_600;
/// The last second that five digits hold, in 2060.
const LAST: i64 = (1 << 30) - 1;

/// The instant in the whole seconds of a mark: never earlier than it is, and within what the mark can say.
pub fn marked_end(end: Instant) -> Instant {
    let seconds = end.timestamp() + i64::from(end.timestamp_subsec_nanos() > 0);
    instant((seconds - EPOCH).clamp(0, LAST))
}

fn instant(since_epoch: i64) -> Instant {
    DateTime::from_timestamp(EPOCH, 0).unwrap_or_default() + TimeDelta::seconds(since_epoch)
}

fn write_digits(text: &mut String, value: u128, count: usize) {
    for place in (0..count).rev() {
        let digit = usize::try_from(value >> (6 * place) & 63).unwrap_or_default();
        text.extend(DIGITS.get(digit).copied().map(char::from));
    }
}

fn read_digits(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0_u128, |value, digit| {
        let place = DIGITS.iter().position(|one| one == digit)?;
        // 22 digits hold 132 bits: what does not fit is no id.
        value.checked_mul(64)?.checked_add(u128::try_from(place).ok()?)
    })
}

impl fmt::Display for SharedMark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::with_capacity(SHARE * self.shares.len());
        for share in &self.shares {
            let end = marked_end(share.end).timestamp() - EPOCH;
            write_digits(&mut text, share.grant.uuid().as_u128(), ID);
            write_digits(&mut text, u128::try_from(end).unwrap_or_default(), END);
            write_digits(&mut text, share.entries.into(), 1);
        }
        let axis = match self.axis {
            Axis::Sources => 's',
            Axis::Destinations => 'd',
        };
        write!(f, "postern:{} {axis}={text}", self.installation)
    }
}

impl SharedMark {
    /// The mark that `text` carries, if it is one.
    pub fn parse(text: &str) -> Option<Self> {
        let (installation, rest) = text.strip_prefix("postern:")?.split_once(' ')?;
        let (axis, digits) = rest.split_once('=')?;
        let axis = match axis {
            "s" => Axis::Sources,
            "d" => Axis::Destinations,
            _ => return None,
        };
        let parts = digits.as_bytes().chunks(SHARE);
        if digits.is_empty() || parts.len() > MAX_SHARES {
            return None;
        }
        let shares: Vec<Share> = parts
            .map(|part| {
                let (id, rest) = part.split_at_checked(ID)?;
                let (end, entries) = rest.split_at_checked(END)?;
                let entries = (entries.len() == 1).then(|| read_digits(entries)).flatten()?;
                Some(Share {
                    grant: GrantId::from_uuid(Uuid::from_u128(read_digits(id)?)),
                    end: instant(i64::try_from(read_digits(end)?).ok()?),
                    entries: u8::try_from(entries).ok().filter(|entries| *entries != 0)?,
                })
            })
            .collect::<Option<_>>()?;
        shares.is_sorted_by(|a, b| a.grant < b.grant).then_some(Self {
            installation: installation.parse().ok()?,
            axis,
            shares,
        })
    }

    /// The mark that the grant's own rule would have, if it is one of the rule's grants.
    pub fn of_grant(&self, grant: GrantId) -> Option<Mark> {
        let share = self.shares.iter().find(|share| share.grant == grant)?;
        Some(Mark {
            installation: self.installation.clone(),
            purpose: Purpose::Grant {
                grant,
                end: share.end,
            },
        })
    }

    /// How many entries the axis must have for every share to be told.
    pub fn entries(&self) -> usize {
        let all = self.shares.iter().fold(0, |all, share| all | share.entries);
        usize::try_from(u8::BITS - all.leading_zeros()).unwrap_or(MAX_ENTRIES)
    }
}

/// Whether the text is a mark, of any installation and either kind.
pub fn is_marked(text: &str) -> bool {
    Mark::parse(text).is_some() || SharedMark::parse(text).is_some()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{an_id, at};

    fn a_mark() -> impl Strategy<Value = SharedMark> {
        (
            prop::sample::select(vec!["a", "prod-eu-12345678"]),
            any::<bool>(),
            prop::collection::btree_map(any::<u128>(), (0..=LAST, 1u8..64), 1..=MAX_SHARES),
        )
            .prop_map(|(installation, sources, shares)| SharedMark {
                installation: installation.parse().unwrap(),
                axis: if sources {
                    Axis::Sources
                } else {
                    Axis::Destinations
                },
                shares: shares
                    .into_iter()
                    .map(|(id, (end, entries))| Share {
                        grant: GrantId::from_uuid(Uuid::from_u128(id)),
                        end: instant(end),
                        entries,
                    })
                    .collect(),
            })
    }

    proptest! {
        #[test]
        fn a_shared_mark_reads_back_and_fits_azures_description(mark in a_mark()) {
            let text = mark.to_string();
            prop_assert!(text.len() <= 140, "{}", text);
            prop_assert_eq!(Mark::parse(&text), None);
            prop_assert!(is_marked(&text));
            prop_assert_eq!(SharedMark::parse(&text), Some(mark));
        }
    }

    #[test]
    fn a_mark_never_promises_an_earlier_end_than_the_grant_has() {
        let end = at(3) + TimeDelta::milliseconds(1);
        assert_eq!(marked_end(end), at(4));
        assert_eq!(marked_end(at(3)), at(3));
        let mark = SharedMark {
            installation: "x".parse().unwrap(),
            axis: Axis::Sources,
            shares: vec![Share {
                grant: an_id(1),
                end,
                entries: 1,
            }],
        };
        let read = SharedMark::parse(&mark.to_string()).unwrap();
        assert_eq!(read.shares[0].end, at(4));
        assert_eq!(
            read.of_grant(an_id(1)).unwrap().purpose,
            Purpose::Grant {
                grant: an_id(1),
                end: at(4)
            }
        );
    }

    #[test]
    fn what_is_not_quite_a_shared_mark_is_not_ours() {
        let good = SharedMark {
            installation: "x".parse().unwrap(),
            axis: Axis::Destinations,
            shares: vec![Share {
                grant: an_id(1),
                end: at(3),
                entries: 1,
            }],
        }
        .to_string();
        assert!(SharedMark::parse(&good).is_some());
        let digits = good.strip_prefix("postern:x d=").unwrap();
        for text in [
            "postern:x d=".to_owned(),
            good.replace("d=", "e="),
            good.replace("postern:x", "postern:X"),
            format!("{good}A"),
            format!("{good}{digits}"),
            format!("postern:x d={}", &digits[1..]),
            format!("postern:x d=_{}", &digits[1..]),
            format!("postern:x d={}A", &digits[..27]),
            format!("postern:x d={}", digits.repeat(5)),
            good.replace('B', "+"),
        ] {
            assert_eq!(SharedMark::parse(&text), None, "{text}");
        }
    }
}
