//! Files: what is written is read, and every way to damage one is noticed.

mod common;

use common::{Raw, full_config, join, model, patch_header, plain_config, spec};
use forge_formats::codec::Codec;
use forge_formats::codec::encode::{Simple, encode};
use forge_formats::header::{ALIGN, MANIFEST_MAX, crc32};
use forge_formats::manifest::{Content, Section};
use forge_formats::write::Writer;
use forge_formats::{Error, File, ModelConfig, Role};

fn refusal(bytes: &[u8]) -> Error {
    File::parse(bytes).expect_err("the fault must be refused")
}

/// The full model's file in parts, after a change.
fn changed(change: impl FnOnce(&mut Raw)) -> Vec<u8> {
    let mut raw = Raw::new(&model(&full_config()).finish().unwrap());
    change(&mut raw);
    raw.bytes()
}

#[test]
fn what_is_written_is_read() {
    for config in [plain_config(), full_config()] {
        let bytes = model(&config).extra(5, [1, 2, 3]).extra(9, []).finish().unwrap();
        let file = File::parse(&bytes).unwrap();
        file.verify().unwrap();
        assert_eq!(*file.config(), config);
        assert_eq!(file.card(), "{\"name\":\"é\"}");
        assert_eq!(file.tokenizer().to_spec(), spec());
        assert_eq!(file.header().minor, 0);
        let mut seen = 0;
        for (role, layer, [rows, cols]) in config.tensors() {
            seen += 1;
            let matrix = file.tensor(role, layer).unwrap();
            assert_eq!((matrix.rows(), matrix.cols()), (rows as usize, cols as usize));
            let data = common::values(seen, matrix.rows() * matrix.cols());
            let mut row = vec![f32::NAN; matrix.cols()];
            matrix.decode_row(matrix.rows() - 1, &mut row);
            let last = &data[data.len() - matrix.cols()..];
            assert!(row.iter().zip(last).all(|(a, b)| (a - b).abs() < 0.8), "{} {layer}", role.name());
            assert!(file.tensor(role, config.layers).is_none());
        }
        assert_eq!(file.sections().count(), seen as usize + 4);
        assert!(file.sections().all(|s| file.section_bytes(&s).len() == s.len as usize));
        assert_eq!(Writer::from_file(&file).finish().unwrap(), bytes);
    }
    let bytes = model(&plain_config()).card("").finish().unwrap();
    let file = File::parse(&bytes).unwrap();
    assert_eq!(file.card(), "");
    assert!(file.tensor(Role::Head, 0).is_none());
}

#[test]
fn order_of_adding_does_not_matter() {
    let config = plain_config();
    let bytes = model(&config).finish().unwrap();
    let file = File::parse(&bytes).unwrap();
    let mut backwards = Writer::new(config).card(file.card());
    let mut sections: Vec<Section> = file.sections().collect();
    sections.reverse();
    for s in sections {
        if let Content::Tensor { role, layer, codec, .. } = s.content {
            backwards = backwards.tensor(role, layer, codec, file.section_bytes(&s).to_vec());
        }
    }
    assert_eq!(backwards.tokenizer(spec().to_bytes().unwrap()).finish().unwrap(), bytes);
}

#[test]
fn every_truncation_and_extension_is_refused() {
    let bytes = model(&plain_config()).finish().unwrap();
    for len in 0..bytes.len() {
        assert!(File::parse(&bytes[..len]).is_err(), "cut to {len} bytes");
    }
    assert_eq!(refusal(&[&bytes[..], &[0]].concat()), Error::Trailing);
}

#[test]
fn every_flipped_bit_is_noticed() {
    let mut bytes = model(&plain_config()).extra(1, [1, 2, 3]).finish().unwrap();
    for at in 0..bytes.len() {
        for bit in 0..8 {
            bytes[at] ^= 1 << bit;
            let noticed = File::parse(&bytes).and_then(|f| f.verify()).is_err();
            assert!(noticed, "bit {bit} of byte {at}");
            bytes[at] ^= 1 << bit;
        }
    }
    File::parse(&bytes).unwrap().verify().unwrap();
}

#[test]
fn header_faults() {
    let good = model(&plain_config()).finish().unwrap();
    let patched = |at: usize, value: &[u8]| {
        let mut bytes = good.clone();
        patch_header(&mut bytes, at, value);
        bytes
    };
    assert_eq!(refusal(&[]), Error::Truncated("header"));
    assert_eq!(refusal(b"GGUF----"), Error::Magic);
    assert_eq!(refusal(&patched(6, b"\n\n")), Error::Magic);
    assert_eq!(refusal(&patched(8, &[2])), Error::Version);
    assert_eq!(refusal(&patched(12, &[1])), Error::Version);
    assert_eq!(refusal(&patched(15, &[0x80])), Error::Version);
    assert_eq!(refusal(&patched(36, &[1])), Error::Trailing);
    assert_eq!(refusal(&patched(59, &[1])), Error::Trailing);
    assert_eq!(refusal(&patched(32, &[0; 4])), Error::Checksum("manifest"));
    assert_eq!(refusal(&patched(16, &[0xFF; 4])), Error::Manifest);
    assert_eq!(refusal(&patched(20, &[0x40, 0, 0, 0])), Error::Layout);
    assert_eq!(refusal(&patched(20, &[0xC0, 0xFF, 0xFF, 0xFF])), Error::Layout);
    assert_eq!(refusal(&patched(24, &[0xFF; 8])), Error::Layout);
    assert_eq!(refusal(&patched(24, &[0xFF, 0xFF, 0xFF, 0xFF, 0, 0, 0, 0])), Error::Truncated("data"));
    assert_eq!(refusal(&patched(24, &[0; 8])), Error::Trailing);
    // A newer minor version is read.
    File::parse(&patched(10, &[7])).unwrap().verify().unwrap();
    let mut bytes = good.clone();
    bytes[60] ^= 1;
    assert_eq!(refusal(&bytes), Error::Checksum("header"));
    // The gap between manifest and data.
    let mut bytes = good.clone();
    let file = File::parse(&good).unwrap();
    let gap = 64 + file.header().manifest_len as usize;
    assert!(gap < file.header().data_offset as usize, "the test needs a gap");
    bytes[gap] = 1;
    assert_eq!(refusal(&bytes), Error::Trailing);
}

#[test]
fn manifest_faults() {
    assert_eq!(refusal(&changed(|r| r.manifest_tail.push(0))), Error::Manifest);
    // One record more than there is, then as many as a count can say.
    assert_eq!(refusal(&changed(|r| r.count = Some(r.sections.len() as u16 + 1))), Error::Manifest);
    assert_eq!(refusal(&changed(|r| r.count = Some(u16::MAX))), Error::Manifest);
    assert_eq!(refusal(&changed(|r| r.count = Some(r.sections.len() as u16 - 1))), Error::Manifest);
    assert_eq!(refusal(&changed(|r| r.count = Some(0))), Error::Tensor("embedding"));
    assert_eq!(refusal(&join(&[], &[])), Error::Manifest);

    // vocab = 269 is the varint 8D 02; 8D 82 00 says the same with a byte too many.
    let raw = Raw::new(&model(&plain_config()).finish().unwrap());
    let manifest = raw.manifest();
    assert_eq!(manifest[..2], [0x8D, 0x02]);
    let longer = [&[0x8D, 0x82, 0x00][..], &manifest[2..]].concat();
    assert_eq!(refusal(&join(&longer, &raw.data)), Error::Manifest);
    assert!(File::parse(&join(&manifest, &raw.data)).is_ok());

    // A manifest longer than the limit, however right its checksums are.
    let tail = vec![0; MANIFEST_MAX];
    let mut bytes = raw.bytes();
    bytes.splice(64.., [manifest, tail].concat());
    let len = bytes.len() - 64;
    bytes.resize(bytes.len().next_multiple_of(64), 0);
    let offset = bytes.len() as u32;
    let crc = crc32(&bytes[64..64 + len]);
    bytes.extend(&raw.data);
    patch_header(&mut bytes, 16, &(len as u32).to_le_bytes());
    patch_header(&mut bytes, 20, &offset.to_le_bytes());
    patch_header(&mut bytes, 32, &crc.to_le_bytes());
    assert_eq!(refusal(&bytes), Error::Manifest);
}

#[test]
fn layout_faults() {
    // Overlap, gap, swapped, far outside.
    assert_eq!(refusal(&changed(|r| r.sections[1].offset64 -= 1)), Error::Layout);
    assert_eq!(refusal(&changed(|r| r.sections[1].offset64 += 1)), Error::Layout);
    assert_eq!(refusal(&changed(|r| r.sections[1].offset64 = u32::MAX)), Error::Layout);
    assert_eq!(refusal(&changed(|r| r.sections[0].offset64 = 1)), Error::Layout);
    let widened = changed(|r| {
        r.data.splice(0..0, [0; ALIGN]);
        r.sections.iter_mut().for_each(|s| s.offset64 += 1);
    });
    assert_eq!(refusal(&widened), Error::Layout);
    // Lengths: the last past the end, and one that leaves bytes over.
    assert_eq!(refusal(&changed(|r| r.sections.last_mut().unwrap().len += 1)), Error::Layout);
    assert_eq!(refusal(&changed(|r| r.sections.last_mut().unwrap().len = u32::MAX)), Error::Layout);
    assert_eq!(refusal(&changed(|r| r.data.push(0))), Error::Trailing);
    assert_eq!(refusal(&changed(|r| r.data.resize(r.data.len().next_multiple_of(64), 0))), Error::Trailing);
    // Padding that is not zero.
    let padding = changed(|r| {
        let s = r.sections[0];
        let end = s.offset64 as usize * ALIGN + s.len as usize;
        assert_ne!(end % ALIGN, 0, "the test needs padding");
        r.data[end] = 1;
    });
    assert_eq!(refusal(&padding), Error::Trailing);
}

#[test]
fn tensor_faults() {
    let qkv = Error::Tensor("qkv");
    assert_eq!(
        refusal(&changed(|r| {
            let at = r.find(Role::Qkv);
            r.shape(at).swap(0, 1)
        })),
        qkv
    );
    assert_eq!(
        refusal(&changed(|r| {
            let at = r.find(Role::Qkv);
            r.shape(at)[0] = u32::MAX
        })),
        qkv
    );
    let layer = |r: &mut Raw| {
        let at = r.find(Role::Qkv);
        if let Content::Tensor { layer, .. } = &mut r.sections[at].content {
            *layer = 1;
        }
    };
    assert_eq!(refusal(&changed(layer)), qkv);
    let role = |r: &mut Raw| {
        let at = r.find(Role::Qkv);
        if let Content::Tensor { role, .. } = &mut r.sections[at].content {
            *role = Role::Down;
        }
    };
    assert_eq!(refusal(&changed(role)), qkv);
    // A codec whose length differs.
    let codec = changed(|r| {
        let at = r.find(Role::Qkv);
        *r.codec(at) = Codec::F32
    });
    assert!(matches!(refusal(&codec), Error::Codec(_)));
    // Repeated: the same bytes and record again at the end.
    let twice = changed(|r| {
        let s = r.sections[0];
        let start = r.data.len().next_multiple_of(ALIGN);
        r.data.resize(start, 0);
        r.data.extend_from_within(..s.len as usize);
        r.sections.push(Section { offset64: (start / ALIGN) as u32, ..s });
    });
    assert_eq!(refusal(&twice), Error::Tensor("embedding"));
    // Missing: the last tensor's record replaced by an extra.
    let missing = changed(|r| {
        let at = r.find(Role::Halt);
        r.sections[at].content = Content::Extra { tag: 0 }
    });
    assert_eq!(refusal(&missing), Error::Tensor("halt"));
}

#[test]
fn codecs_a_role_forbids_are_refused() {
    let config = plain_config();
    let file = |role: Role, codec: Simple| {
        let [rows, cols] = role.shape(&config, 0).unwrap().map(|n| n as usize);
        let payload = encode(codec, rows, cols, &common::values(3, rows * cols));
        model(&config).replace(role, 0, codec.into(), payload).finish()
    };
    for codec in [Simple::Ternary2b, Simple::Ternary5x8, Simple::TernaryRans, Simple::TernarySparse] {
        assert_eq!(file(Role::Embedding, codec), Err(Error::Tensor("embedding")));
        assert_eq!(file(Role::FinalNorm, codec), Err(Error::Tensor("final_norm")));
        assert!(file(Role::Qkv, codec).is_ok());
    }
    assert_eq!(file(Role::FinalNorm, Simple::Int8Row), Err(Error::Tensor("final_norm")));
    assert!(file(Role::Embedding, Simple::Int8Row).is_ok());
    assert!(file(Role::FinalNorm, Simple::F16).is_ok());
}

#[test]
fn payload_faults() {
    let spoiled = |role: Role, bytes: &'static [u8]| {
        changed(move |r| {
            let at = r.find(role);
            r.payload(at)[..bytes.len()].copy_from_slice(bytes);
            r.seal();
        })
    };
    let bytes = model(&full_config()).finish().unwrap();
    let file = File::parse(&bytes).unwrap();
    // The codecs that the full model happens to use, so that the faults below mean what they say.
    let mut refused = Vec::new();
    for (role, layer, _) in full_config().tensors().filter(|t| t.1 == 0) {
        let codec = file.tensor(role, layer).unwrap().codec();
        let fault: &[u8] = match codec {
            Codec::F32 => &[0, 0, 0x80, 0x7F],
            Codec::F16 => &[0, 0x7C],
            Codec::Int8Row => &[0x80],
            Codec::Ternary2b => &[0x03],
            // Between 0 = ceil(0 · 256/243) and 2 = ceil(1 · 256/243).
            _ => &[0x01],
        };
        assert_eq!(refusal(&spoiled(role, fault)), Error::Codec(codec.name()), "{}", role.name());
        refused.push(codec);
    }
    assert!(
        [Codec::F32, Codec::F16, Codec::Int8Row, Codec::Ternary2b, Codec::Ternary5x8]
            .iter()
            .all(|c| refused.contains(c))
    );
}

#[test]
fn tokenizer_and_card_faults() {
    let at = |r: &Raw| r.position(Content::Tokenizer);
    // Its first byte is the number of specials.
    let table = changed(|r| {
        let at = at(r);
        r.payload(at)[0] ^= 1;
        r.seal()
    });
    assert!(matches!(refusal(&table), Error::Tokenizer(_)));
    let missing = changed(|r| {
        let at = at(r);
        r.sections[at].content = Content::Extra { tag: 0 }
    });
    assert_eq!(refusal(&missing), Error::Tokenizer("missing"));
    let as_card = changed(|r| {
        let at = at(r);
        r.sections[at].content = Content::Card
    });
    assert_eq!(refusal(&as_card), Error::Tokenizer("missing"));
    let twice = changed(|r| {
        let at = r.position(Content::Card);
        r.sections[at].content = Content::Tokenizer
    });
    assert_eq!(refusal(&twice), Error::Manifest);

    let mut other = spec();
    other.merges.pop();
    let differs = model(&full_config()).tokenizer(other.to_bytes().unwrap()).finish();
    assert_eq!(differs, Err(Error::Tokenizer("vocabulary differs from the model's")));

    let card = changed(|r| {
        let at = r.position(Content::Card);
        r.payload(at)[0] = 0xFF;
        r.seal()
    });
    assert_eq!(refusal(&card), Error::Card);
    let empty = changed(|r| {
        let len = r.sections.last().unwrap().len;
        r.data.truncate(r.data.len() - len as usize);
        r.sections.last_mut().unwrap().len = 0;
    });
    assert_eq!(refusal(&empty), Error::Layout);
    let cards = |r: &mut Raw| {
        let section =
            Section { offset64: r.data.len().div_ceil(ALIGN) as u32, ..*r.sections.last().unwrap() };
        r.data.resize(r.data.len().next_multiple_of(ALIGN), 0);
        r.data.extend(b"{\"name\":\"\xC3\xA9\"}");
        r.sections.push(section);
    };
    assert_eq!(refusal(&changed(cards)), Error::Manifest);
}

#[test]
fn extras_rise_strictly() {
    let with = |a: u32, b: u32| {
        let mut raw = Raw::new(&model(&plain_config()).extra(3, [1]).extra(4, [2]).finish().unwrap());
        let n = raw.sections.len();
        raw.sections[n - 2].content = Content::Extra { tag: a };
        raw.sections[n - 1].content = Content::Extra { tag: b };
        File::parse(&raw.bytes()).map(|_| ())
    };
    assert_eq!(with(0, u32::MAX), Ok(()));
    assert_eq!(with(4, 4), Err(Error::Manifest));
    assert_eq!(with(5, 4), Err(Error::Manifest));
}

#[test]
fn config_faults() {
    let refused = |change: fn(&mut ModelConfig), field| {
        assert_eq!(refusal(&changed(|r| change(&mut r.config))), Error::Config(field));
    };
    refused(|c| c.vocab = 0, "vocab");
    refused(|c| c.vocab = u32::MAX, "vocab");
    refused(|c| c.dim = u32::MAX, "dim");
    refused(|c| c.layers = 0, "layers");
    refused(|c| c.layers = u32::MAX, "layers");
    refused(|c| c.heads = u32::MAX, "heads");
    refused(|c| c.kv_heads = 0, "kv_heads");
    refused(|c| c.kv_heads = 3, "kv_heads");
    refused(|c| c.head_dim = 3, "head_dim");
    refused(|c| (c.heads, c.head_dim) = (256, 256), "heads * head_dim");
    refused(|c| c.ffn = 0, "ffn");
    refused(|c| c.window = 0, "window");
    refused(|c| c.rope_log2_theta = f32::NAN, "rope_log2_theta");
    refused(|c| c.norm_eps = 0.0, "norm_eps");
    refused(|c| c.recursion = 0, "recursion");
    refused(|c| c.halt_threshold = f32::INFINITY, "halt_threshold");
    refused(|c| c.mem_dim = u32::MAX, "mem_dim");
    refused(|c| c.mem_gate = 0, "mem_gate");
    refused(|c| c.mem_layers = 0b100, "mem_layers");
    // A config that is right in itself but not the one these tensors belong to.
    assert_eq!(refusal(&changed(|r| r.config.dim = 8)), Error::Tensor("embedding"));
}

#[test]
fn the_writer_refuses_what_the_reader_would() {
    let config = plain_config();
    let zeros = vec![0; 12];
    assert_eq!(Writer::new(config.clone()).finish(), Err(Error::Tensor("embedding")));
    let twice = model(&config).tensor(Role::FinalNorm, 0, Codec::F16, zeros.clone());
    assert_eq!(twice.finish(), Err(Error::Tensor("final_norm")));
    let stray = model(&config).tensor(Role::Halt, 0, Codec::F16, zeros.clone());
    assert_eq!(stray.finish(), Err(Error::Tensor("halt")));
    let short = model(&config).replace(Role::FinalNorm, 0, Codec::F32, zeros);
    assert_eq!(short.finish(), Err(Error::Codec("f32")));
    let config = ModelConfig { dim: 0, ..config };
    assert_eq!(Writer::new(config).finish(), Err(Error::Config("dim")));
}

#[test]
fn verify_names_the_damaged_section() {
    let mut raw = Raw::new(&model(&plain_config()).finish().unwrap());
    let at = raw.find(Role::FinalNorm);
    raw.payload(at)[0] ^= 1;
    let bytes = raw.bytes();
    let file = File::parse(&bytes).unwrap();
    assert_eq!(file.verify(), Err(Error::Checksum("final_norm")));
    assert_eq!(File::parse_verified(&bytes).unwrap_err(), Error::Checksum("final_norm"));
}
