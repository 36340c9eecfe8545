"""The peer of `forge-benches compare training`: the same model, weights and batches in PyTorch.

usage: peer.py FOLDER SHAPE STEPS THREADS ARCHITECTURE MODE
  ARCHITECTURE  forge: an RMS norm before every projection and behind the embedding, as Forge has it
                plain: norms before attention, feed-forward network and head alone, as Llama has them
  MODE          f32, bf16 (autocast) or compile (f32 through torch.compile)

Attention is scaled_dot_product_attention, the optimiser AdamW(fused=True). Prints one line of JSON.
"""

import json
import sys
import time

import torch
import torch.nn.functional as F
from torch import nn

EPS, BASE, RATE, DECAY = 1e-5, 10000.0, 1e-3, 0.1
CONTEXT = 256
SHAPES = {
    "tiny": dict(dim=192, layers=6, heads=6, ffn=512, vocab=2048, rows=8),
    "25m": dict(dim=512, layers=8, heads=8, ffn=1408, vocab=8192, rows=4),
}


def norm(x):
    return F.rms_norm(x, (x.shape[-1],), eps=EPS)


class Block(nn.Module):
    def __init__(self, c, forge):
        super().__init__()
        d, f = c["dim"], c["ffn"]
        self.heads, self.forge = c["heads"], forge
        self.attn_norm, self.ffn_norm = (nn.RMSNorm(d, eps=EPS) for _ in range(2))
        self.qkv, self.attn_out = nn.Linear(d, 3 * d, bias=False), nn.Linear(d, d, bias=False)
        self.gate_up, self.down = nn.Linear(d, 2 * f, bias=False), nn.Linear(f, d, bias=False)

    def forward(self, u, cos, sin):
        b, t, d = u.shape
        q, k, v = self.qkv(self.attn_norm(u)).view(b, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4)

        def rotate(x):
            p, r = x.chunk(2, -1)
            return torch.cat([p * cos - r * sin, r * cos + p * sin], -1).to(v.dtype)

        o = F.scaled_dot_product_attention(rotate(q), rotate(k), v, is_causal=True)
        o = o.transpose(1, 2).reshape(b, t, d)
        u = u + self.attn_out(norm(o) if self.forge else o)
        gate, up = self.gate_up(self.ffn_norm(u)).chunk(2, -1)
        h = F.silu(gate) * up
        return u + self.down(norm(h) if self.forge else h)


class Model(nn.Module):
    def __init__(self, c, forge):
        super().__init__()
        d, half = c["dim"], c["dim"] // c["heads"] // 2
        self.forge = forge
        self.embedding = nn.Embedding(c["vocab"], d)
        self.blocks = nn.ModuleList(Block(c, forge) for _ in range(c["layers"]))
        self.final_norm = nn.RMSNorm(d, eps=EPS)
        angles = torch.arange(CONTEXT)[:, None] * BASE ** (-torch.arange(half) / half)[None]
        self.register_buffer("cos", angles.cos())
        self.register_buffer("sin", angles.sin())

    def forward(self, ids, targets):
        u = self.embedding(ids)
        if self.forge:
            u = norm(u)
        for block in self.blocks:
            u = block(u, self.cos, self.sin)
        logits = F.linear(self.final_norm(u).flatten(0, 1), self.embedding.weight)
        return F.cross_entropy(logits.float(), targets.flatten())

    def load(self, path):
        """Weights as `task.rs` writes them."""
        values = torch.frombuffer(bytearray(open(path, "rb").read()), dtype=torch.float32)
        tensors = [self.embedding.weight]
        for b in self.blocks:
            tensors += [b.attn_norm.weight, b.qkv.weight, b.attn_out.weight]
            tensors += [b.ffn_norm.weight, b.gate_up.weight, b.down.weight]
        tensors.append(self.final_norm.weight)
        parts = values.split([t.numel() for t in tensors])
        with torch.no_grad():
            for tensor, part in zip(tensors, parts, strict=True):
                tensor.copy_(part.view(tensor.shape))


def batches(path, c, steps):
    ids = torch.frombuffer(bytearray(open(path, "rb").read()), dtype=torch.int32).long()
    return ids.view(steps, 2, c["rows"], CONTEXT)


def peak_bytes():
    for line in open("/proc/self/status"):
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) << 10
    return 0


def main():
    folder, shape, steps, threads, architecture, mode = sys.argv[1:]
    steps, c = int(steps), SHAPES[shape]
    torch.set_num_threads(int(threads))
    model = Model(c, architecture == "forge")
    model.load(f"{folder}/{shape}.weights")
    decayed = [p for p in model.parameters() if p.dim() == 2]
    others = [p for p in model.parameters() if p.dim() != 2]
    groups = [dict(params=decayed, weight_decay=DECAY), dict(params=others, weight_decay=0.0)]
    optimizer = torch.optim.AdamW(groups, lr=RATE, betas=(0.9, 0.95), fused=True)
    step_model = torch.compile(model) if mode == "compile" else model
    seconds, losses = [], []
    for ids, targets in batches(f"{folder}/{shape}.batches", c, steps):
        start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=mode == "bf16"):
            loss = step_model(ids, targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        seconds.append(time.perf_counter() - start)
    version = f"PyTorch {torch.__version__}"
    print(json.dumps(dict(seconds=seconds, losses=losses, peak_bytes=peak_bytes(), version=version)))


main()
