//! Partitioner: which partition of a topic a key belongs to, as the producers of this world reckon it.
//!
//!   Java, and what follows it:      toPositive(murmur2(key)) % partitions
//!   librdkafka's own default:                  crc32(key) % partitions
//!
//! Holds: the same bytes give the same number in every process and version, because topics hold records by it.
//! Does not: spread records without a key, which each client does as it likes.

/// How a topic's producers turn a key into a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Partitioner {
    /// Kafka's Java client, and the `murmur2` partitioner of librdkafka.
    Murmur2,
    /// The `consistent` partitioner of librdkafka, which its `consistent_random` default applies to records with a key.
    Crc32,
}

impl Partitioner {
    /// The hash of a key; [`Partitioner::partition`] makes a number of it.
    pub fn hash(self, key: &[u8]) -> u32 {
        match self {
            Partitioner::Murmur2 => murmur2(key),
            Partitioner::Crc32 => crc32(key),
        }
    }

    /// The partition of a key among `count`; a topic without partitions has only number 0 to give.
    pub fn partition(self, key: &[u8], count: u32) -> u32 {
        let hash = match self {
            // Java has no unsigned integers: it drops the sign.
            Partitioner::Murmur2 => self.hash(key) & 0x7fff_ffff,
            Partitioner::Crc32 => self.hash(key),
        };
        hash % count.max(1)
    }
}

/// MurmurHash2 of 32 bits with Kafka's seed. Words are little-endian.
fn murmur2(key: &[u8]) -> u32 {
    const SEED: u32 = 0x9747_b28c;
    const MIX: u32 = 0x5bd1_e995;
    let mut hash = SEED ^ key.len() as u32;
    let (words, tail) = key.as_chunks::<4>();
    for word in words {
        let mut bits = u32::from_le_bytes(*word).wrapping_mul(MIX);
        bits ^= bits >> 24;
        hash = hash.wrapping_mul(MIX) ^ bits.wrapping_mul(MIX);
    }
    if !tail.is_empty() {
        for (place, byte) in tail.iter().enumerate() {
            hash ^= (*byte as u32) << (8 * place);
        }
        hash = hash.wrapping_mul(MIX);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(MIX);
    hash ^ (hash >> 15)
}

/// CRC-32 with zlib's polynomial.
fn crc32(key: &[u8]) -> u32 {
    !key.iter().fold(u32::MAX, |crc, byte| (crc >> 8) ^ CRC_TABLE[((crc ^ *byte as u32) & 0xff) as usize])
}

const CRC_TABLE: [u32; 256] = crc_table();

const fn crc_table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn murmur2_gives_what_kafkas_own_test_of_it_expects() {
        for (key, expected) in [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
        ] {
            assert_eq!(Partitioner::Murmur2.hash(key.as_bytes()) as i32, expected, "{key}");
        }
    }

    #[test]
    fn crc32_is_the_one_of_zlib() {
        for (key, expected) in
            [("", 0), ("123456789", 0xcbf4_3926), ("The quick brown fox jumps over the lazy dog", 0x414f_a339)]
        {
            assert_eq!(Partitioner::Crc32.hash(key.as_bytes()), expected, "{key}");
        }
        let every_byte: Vec<u8> = (0..=255).collect();
        assert_eq!(Partitioner::Crc32.hash(&every_byte), 0x2905_8c73);
    }

    #[test]
    fn a_hash_becomes_a_partition_as_each_client_does_it() {
        // -973932308 without its sign is 1173551340
        assert_eq!(Partitioner::Murmur2.partition(b"21", 1000), 340);
        assert_eq!(Partitioner::Crc32.partition(b"123456789", 1000), 0xcbf4_3926 % 1000);
        for partitioner in [Partitioner::Murmur2, Partitioner::Crc32] {
            assert_eq!(partitioner.partition(b"21", 1), 0);
            assert_eq!(partitioner.partition(b"21", 0), 0, "no partitions is no reason to panic");
        }
    }
}
