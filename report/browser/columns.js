"use strict";
// The columns that a table of latents may have, and what may be typed to filter them.

crossdiff.columns = (() => {
  const { shown } = crossdiff;

  // Every column that a training may have: how it is called, explained and shown. It is ``least`` pixels wide
  // where there is little room.
  const all = [
    { key: "latent", label: "latent", help: "number of the latent", width: 84, least: 64 },
    { key: "name", label: "name", help: "name in the catalogue", text: true, width: 130, least: 88 },
    {
      key: "class", label: "class",
      help: "by relative decoder norm difference; dead: never fires on held-out text",
      text: true, width: 92, least: 92,
    },
    {
      key: "part", label: "part", help: "which latents of its loss it belongs to",
      text: true, width: 100, least: 66,
    },
    {
      key: "confirmed", label: "confirmed",
      help: "both ν from −0.1 up to their thresholds, whatever the norm difference: 1 yes, 0 no",
      width: 104, least: 104, format: (value) => (value === null ? "–" : value ? "yes" : ""),
    },
    {
      key: "relative_norm_difference", label: "norm diff.",
      help: "relative decoder norm difference: 0 base only, ½ equal, 1 chat only",
      width: 108, least: 98,
    },
    {
      key: "nu_error", label: "ν error",
      help:
        "near 0: only the chat model needs it; high: complete shrinkage; 95 % interval over documents; " +
        "base-only latents: mirrored, near 0 if only the base model needs it",
      interval: true, width: 164, least: 140,
    },
    {
      key: "nu_reconstruction", label: "ν reconstr.",
      help:
        "near 0: only the chat model needs it; high: latent decoupling; 95 % interval over documents; " +
        "base-only latents: mirrored, near 0 if only the base model needs it",
      interval: true, width: 164, least: 140,
    },
    {
      key: "frequency", label: "fires on %",
      help: "share of training tokens on which it fires, in per cent",
      scale: 100, digits: 3, width: 104, least: 94,
    },
    {
      key: "template_share", label: "template",
      help: "share of its activations in chats that fall on template tokens",
      width: 96, least: 94,
    },
    {
      key: "kl", label: "KL, its half",
      help:
        "KL reduction when its whole half of the chat-leaning latents (by norm difference) is patched; " +
        "not of this latent alone",
      width: 116, least: 104,
    },
    {
      key: "detection", label: "detection",
      help:
        "balanced accuracy of the explanation on contexts that it was not made from; 0.5 is chance; " +
        "95 % interval",
      interval: true, width: 164, least: 140,
    },
    {
      key: "explanation", label: "explanation",
      help: "what it fires on, by its explanation",
      text: true, width: 300, least: 130,
    },
  ];

  // A test of values, from what was typed; null if it says nothing that can be tested.
  function test(column, typed) {
    if (column.text) {
      const wanted = typed.toLowerCase();
      return (value) => value.toLowerCase().includes(wanted);
    }
    const number = "([-+]?\\d*\\.?\\d+(?:e[-+]?\\d+)?)";
    const scale = column.scale || 1;
    let found = typed.match(new RegExp(`^(<=|>=|<|>|=|)\\s*${number}$`));
    if (found) {
      const bound = Number(found[2]) / scale;
      const compare = {
        "<": (v) => v < bound,
        ">": (v) => v > bound,
        "<=": (v) => v <= bound,
        ">=": (v) => v >= bound,
      };
      const digits = column.key === "latent" ? 0 : column.digits;
      const same = (v) => shown(v * scale, digits) === shown(bound * scale, digits);
      return (value) => value !== null && (compare[found[1]] || same)(value);
    }
    found = typed.match(new RegExp(`^${number}\\s*\\.\\.\\s*${number}$`));
    if (!found) return null;
    const [low, high] = [Number(found[1]) / scale, Number(found[2]) / scale];
    return (value) => value !== null && value >= low && value <= high;
  }

  return { all, test };
})();
