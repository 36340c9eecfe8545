//! The tokenizer table: a byte-level byte-pair encoding (Sennrich et al. 2016; bytes as in GPT-2).
//!
//! Token ids are special tokens first (`0..S`), then the bytes (`S..S + B`), then one token a merge in rank order. The
//! table holds no text of ordinary tokens: a merge says which two earlier tokens it joins. The bytes are all 256, or
//! those of an [`Alphabet`], so that a small model spends no row on a byte that its text has not.

use core::fmt;

#[cfg(feature = "alloc")]
use alloc::{string::String, vec::Vec};

use crate::alphabet::Alphabet;
use crate::error::{Error, Result};
use crate::header::FEATURE_ALPHABET;

/// Longest token in bytes.
pub const MAX_TOKEN: usize = 64;
/// Most special tokens.
pub const MAX_SPECIALS: usize = 1024;
/// Longest name of a special token in bytes.
pub const MAX_NAME: usize = 64;
/// The control token that stands for every byte outside the [`Alphabet`].
pub const UNKNOWN: &str = "<unk>";
/// Bytes before the merges, or before the alphabet.
const FRONT: usize = 8;
/// Set in the number of special tokens when an alphabet follows the front.
const WITH_ALPHABET: u16 = 0x8000;

/// What a special token stands for. Text never encodes to one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SpecialKind {
    /// Structure of a sequence: `<pad>`, `<bos>`, `<eos>`, `<sys>`, `<sep>`, `<think>`, `</think>`.
    Control,
    /// The name of a tool.
    Tool,
    /// The name of a tool's argument.
    Slot,
}

impl SpecialKind {
    /// The byte in the table.
    pub fn code(self) -> u8 {
        match self {
            SpecialKind::Control => 0,
            SpecialKind::Tool => 1,
            SpecialKind::Slot => 2,
        }
    }

    /// The kind of a byte in the table.
    pub fn from_code(code: u8) -> Option<Self> {
        match code {
            0 => Some(SpecialKind::Control),
            1 => Some(SpecialKind::Tool),
            2 => Some(SpecialKind::Slot),
            _ => None,
        }
    }
}

/// A validated table that stays in its bytes. Layout in `docs/format.md`.
#[derive(Clone, Copy, PartialEq)]
pub struct TokenizerTable<'a> {
    specials: u16,
    /// Tokens of single bytes.
    bytes: u16,
    /// Which bytes these are, if not all.
    alphabet: Option<&'a [u8; 32]>,
    /// Pairs of token ids, four bytes each.
    merges: &'a [[u8; 4]],
    /// Merge ranks in rising order of their pairs.
    order: &'a [[u8; 2]],
    /// Kind, length and name of every special token.
    names: &'a [u8],
}

impl<'a> TokenizerTable<'a> {
    /// Checks a table: exact length, known kinds, names that are UTF-8, 1 to 64 bytes and unique in their kind;
    /// an alphabet that lacks a byte, has one, and comes with [`UNKNOWN`]; merges of earlier, ordinary tokens, no pair
    /// twice, no token longer than [`MAX_TOKEN`]; the sorted index.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] saying which part.
    pub fn parse(bytes: &'a [u8]) -> Result<Self> {
        let table = Self::split(bytes).ok_or(Error::Tokenizer("length"))?;
        if table.vocab() > 1 << 16 || table.specials as usize > MAX_SPECIALS {
            return Err(Error::Tokenizer("too many tokens"));
        }
        table.check_specials()?;
        table.check_alphabet()?;
        table.check_merges()?;
        table.check_order()?;
        Ok(table)
    }

    /// Cuts the bytes into the parts of the table.
    fn split(bytes: &'a [u8]) -> Option<Self> {
        let (front, rest) = bytes.split_first_chunk::<FRONT>()?;
        let [s0, s1, m0, m1, n0, n1, n2, n3] = *front;
        let merges = u16::from_le_bytes([m0, m1]) as usize;
        let names_len = u32::from_le_bytes([n0, n1, n2, n3]) as usize;
        let specials = u16::from_le_bytes([s0, s1]);
        let (alphabet, rest) = match specials & WITH_ALPHABET {
            0 => (None, rest),
            _ => rest.split_first_chunk::<32>().map(|(set, rest)| (Some(set), rest))?,
        };
        let (pairs, rest) = rest.split_at_checked(merges * 4)?;
        let (order, names) = rest.split_at_checked(merges * 2)?;
        let (merges, order) = (pairs.as_chunks().0, order.as_chunks().0);
        let specials = specials & !WITH_ALPHABET;
        let bytes = alphabet.map_or(256, |set| Alphabet::from_bits(*set).len());
        (names.len() == names_len).then_some(Self { specials, bytes, alphabet, merges, order, names })
    }

    fn check_specials(&self) -> Result<()> {
        let mut records = Specials { rest: self.names };
        for _ in 0..self.specials {
            records.read().ok_or(Error::Tokenizer("special token"))?;
        }
        if !records.rest.is_empty() {
            return Err(Error::Tokenizer("special token"));
        }
        let mut later = self.specials();
        while let Some(special) = later.next() {
            if later.clone().any(|other| other == special) {
                return Err(Error::Tokenizer("special token twice"));
            }
        }
        Ok(())
    }

    /// A full alphabet would be another form of none.
    fn check_alphabet(&self) -> Result<()> {
        let partial = (1..256).contains(&self.bytes) && self.special(SpecialKind::Control, UNKNOWN).is_some();
        if self.alphabet.is_none() || partial { Ok(()) } else { Err(Error::Tokenizer("alphabet")) }
    }

    fn check_merges(&self) -> Result<()> {
        let first = u32::from(self.specials) + u32::from(self.bytes);
        let ordinary = |id: u16, end: u32| id >= self.specials && u32::from(id) < end;
        for (id, pair) in (first..).zip(self.merges) {
            let (left, right) = decode_pair(pair);
            if !ordinary(left, id) || !ordinary(right, id) {
                return Err(Error::Tokenizer("merge of a later or special token"));
            }
        }
        let mut buffer = [0; MAX_TOKEN];
        for (id, _) in (first..).zip(self.merges) {
            let token = u16::try_from(id).ok().and_then(|id| self.token_bytes(id, &mut buffer));
            token.ok_or(Error::Tokenizer("token too long"))?;
        }
        Ok(())
    }

    /// Strictly rising pairs: every rank then occurs once, because a repeated one would repeat its pair.
    fn check_order(&self) -> Result<()> {
        let mut last = None;
        for rank in self.order {
            let pair = self.pair(u16::from_le_bytes(*rank)).ok_or(Error::Tokenizer("merge index"))?;
            if last >= Some(pair) {
                return Err(Error::Tokenizer("merge index"));
            }
            last = Some(pair);
        }
        Ok(())
    }

    /// Number of token ids.
    pub fn vocab(&self) -> u32 {
        u32::from(self.specials) + u32::from(self.bytes) + self.merges.len() as u32
    }

    /// The feature bit of a file with this table; 0 when all versions can read it.
    pub fn feature(&self) -> u32 {
        if self.alphabet.is_some() { FEATURE_ALPHABET } else { 0 }
    }

    /// Number of special tokens, whose ids come first.
    pub fn special_count(&self) -> u16 {
        self.specials
    }

    /// The special tokens in id order.
    pub fn specials(&self) -> impl Iterator<Item = (SpecialKind, &'a str)> + Clone + use<'a> {
        Specials { rest: self.names }
    }

    /// Id of a special token.
    pub fn special(&self, kind: SpecialKind, name: &str) -> Option<u16> {
        (0..).zip(self.specials()).find(|(_, s)| *s == (kind, name)).map(|(id, _)| id)
    }

    /// Kind and name of a special token's id.
    pub fn special_at(&self, id: u16) -> Option<(SpecialKind, &'a str)> {
        self.specials().nth(id as usize)
    }

    /// The bytes there are tokens of.
    pub fn alphabet(&self) -> Alphabet {
        self.alphabet.map_or(Alphabet::ALL, |set| Alphabet::from_bits(*set))
    }

    /// Id of the token of a single byte; of [`UNKNOWN`] when the alphabet lacks it.
    #[inline]
    pub fn byte_id(&self, byte: u8) -> u16 {
        let rank = match self.alphabet {
            None => Some(u16::from(byte)),
            Some(set) => Alphabet::from_bits(*set).rank(byte),
        };
        match rank {
            // At most MAX_SPECIALS + 255.
            Some(rank) => self.specials.wrapping_add(rank),
            None => self.special(SpecialKind::Control, UNKNOWN).unwrap_or(0),
        }
    }

    /// The byte a token stands for; `None` for specials, merges and ids past the vocabulary.
    #[inline]
    pub fn byte_at(&self, id: u16) -> Option<u8> {
        let rank = id.checked_sub(self.specials)?;
        match self.alphabet {
            None => u8::try_from(rank).ok(),
            Some(set) => Alphabet::from_bits(*set).at(rank),
        }
    }

    /// The pair a merged token joins; `None` for specials, bytes and ids past the vocabulary.
    #[inline]
    pub fn merge(&self, id: u16) -> Option<(u16, u16)> {
        self.pair(id.checked_sub(self.specials)?.checked_sub(self.bytes)?)
    }

    /// Id of the token that joins `left` and `right`; a lower id is a lower rank, which is merged first.
    pub fn find_merge(&self, left: u16, right: u16) -> Option<u16> {
        let pair_of = |rank: &[u8; 2]| self.pair(u16::from_le_bytes(*rank)).unwrap_or((0, 0));
        let at = self.order.binary_search_by(|rank| pair_of(rank).cmp(&(left, right))).ok()?;
        let rank = u16::from_le_bytes(*self.order.get(at)?);
        rank.checked_add(self.bytes)?.checked_add(self.specials)
    }

    /// The bytes of an ordinary token; `None` for specials and ids past the vocabulary.
    pub fn token_bytes<'b>(&self, id: u16, buffer: &'b mut [u8; MAX_TOKEN]) -> Option<&'b [u8]> {
        // Depth first, left to right. Every pending token has at least one byte, so 64 places suffice.
        let mut pending = [0u16; MAX_TOKEN];
        let (mut depth, mut len, mut next) = (0, 0, id);
        loop {
            if let Some((left, right)) = self.merge(next) {
                *pending.get_mut(depth)? = right;
                depth += 1;
                next = left;
                continue;
            }
            *buffer.get_mut(len)? = self.byte_at(next)?;
            len += 1;
            if depth == 0 {
                return buffer.get(..len);
            }
            depth -= 1;
            next = *pending.get(depth)?;
        }
    }

    #[inline]
    fn pair(&self, rank: u16) -> Option<(u16, u16)> {
        self.merges.get(rank as usize).map(decode_pair)
    }

    /// The table as lists, for tools that change it.
    #[cfg(feature = "alloc")]
    pub fn to_spec(self) -> TokenizerSpec {
        TokenizerSpec {
            specials: self.specials().map(|(kind, name)| (kind, String::from(name))).collect(),
            alphabet: self.alphabet(),
            merges: self.merges.iter().map(decode_pair).collect(),
        }
    }
}

impl fmt::Debug for TokenizerTable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenizerTable({} tokens, {} special)", self.vocab(), self.specials)
    }
}

fn decode_pair(pair: &[u8; 4]) -> (u16, u16) {
    let [l0, l1, r0, r1] = *pair;
    (u16::from_le_bytes([l0, l1]), u16::from_le_bytes([r0, r1]))
}

/// Walks the names part.
#[derive(Clone, Debug)]
struct Specials<'a> {
    rest: &'a [u8],
}

impl<'a> Specials<'a> {
    fn read(&mut self) -> Option<(SpecialKind, &'a str)> {
        let (&[kind, len], rest) = self.rest.split_first_chunk::<2>()?;
        let (name, rest) = rest.split_at_checked(len as usize)?;
        let name = core::str::from_utf8(name).ok().filter(|n| (1..=MAX_NAME).contains(&n.len()))?;
        let kind = SpecialKind::from_code(kind)?;
        self.rest = rest;
        Some((kind, name))
    }
}

impl<'a> Iterator for Specials<'a> {
    type Item = (SpecialKind, &'a str);

    fn next(&mut self) -> Option<Self::Item> {
        self.read()
    }
}

/// What a tokenizer table is written from.
#[cfg(feature = "alloc")]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenizerSpec {
    /// Special tokens in id order.
    pub specials: Vec<(SpecialKind, String)>,
    /// Bytes with a token of their own. Without all of them, [`UNKNOWN`] must be among the control tokens.
    pub alphabet: Alphabet,
    /// Pairs of token ids in rank order; the token of merge `i` has id `specials.len() + alphabet.len() + i`.
    pub merges: Vec<(u16, u16)>,
}

#[cfg(feature = "alloc")]
impl TokenizerSpec {
    /// The table's bytes.
    ///
    /// # Errors
    /// Whatever [`TokenizerTable::parse`] finds wrong with them.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let too_many = Error::Tokenizer("too many tokens");
        let specials = u16::try_from(self.specials.len()).ok().filter(|n| usize::from(*n) <= MAX_SPECIALS);
        let specials = specials.ok_or(too_many)?;
        let partial = self.alphabet != Alphabet::ALL;
        let merges = u16::try_from(self.merges.len()).map_err(|_| too_many)?;
        let mut names = Vec::new();
        for (kind, name) in &self.specials {
            names.push(kind.code());
            names.push(u8::try_from(name.len()).map_err(|_| Error::Tokenizer("special token"))?);
            names.extend(name.as_bytes());
        }
        let mut order: Vec<((u16, u16), u16)> = self.merges.iter().copied().zip(0..merges).collect();
        order.sort_unstable();
        let mut out = Vec::new();
        out.extend((specials | if partial { WITH_ALPHABET } else { 0 }).to_le_bytes());
        out.extend(merges.to_le_bytes());
        out.extend((names.len() as u32).to_le_bytes());
        if partial {
            out.extend(self.alphabet.bits());
        }
        out.extend(self.merges.iter().flat_map(|(l, r)| [l.to_le_bytes(), r.to_le_bytes()]).flatten());
        out.extend(order.iter().flat_map(|(_, rank)| rank.to_le_bytes()));
        out.extend(names);
        TokenizerTable::parse(&out)?;
        Ok(out)
    }
}
