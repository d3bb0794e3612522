"use strict";
// Lists of latents, and what the run says of each.

crossdiff.latents = (() => {
  const { element, shown } = crossdiff;
  const known = new Map(); // latent -> what the run says of it, for the crosscoder that is shown
  let onChoose = () => {};
  let onSteer = () => {};

  function learn(facts) {
    for (const [latent, fact] of Object.entries(facts)) known.set(Number(latent), fact);
  }

  const of = (latent) => known.get(latent) || {};

  function words(latent) {
    const { name, class: kind, confirmed } = of(latent);
    return [name, kind && `${kind}${confirmed ? ", confirmed" : ""}`].filter(Boolean).join("; ");
  }

  // A link to the latent's page in the latent browser, if the run has one.
  function page(latent) {
    if (document.body.dataset.browser !== "yes") return [];
    const training = document.getElementById("crosscoder").value;
    const href = `/report/latents/index.html#${training}/${latent}`;
    return [element("a", { href, target: "_blank", title: "open in the latent browser" }, "details")];
  }

  // An activation as a share of the latent's largest one.
  function share(latent, value, otherwise) {
    return Math.min(1, value / (of(latent).max_activation || otherwise || value || 1));
  }

  function row(latent, value, chosen) {
    const number = element("button", { type: "button", className: "latent" }, String(latent));
    number.title = "colour the tokens by this latent";
    number.setAttribute("aria-pressed", String(latent === chosen));
    number.addEventListener("click", () => onChoose(latent));
    const steer = element("button", { type: "button", title: "add a slider for this latent" }, "steer");
    steer.addEventListener("click", () => onSteer(latent));
    const what = element("span", {}, words(latent), " ", ...page(latent));
    const cells = [number, what, shown(value), steer];
    const made = cells.map((cell, i) => element("td", { className: i === 2 ? "number" : "" }, cell));
    return element("tr", {}, ...made);
  }

  // A table of [latent, activation].
  function list(place, rows, chosen, nothing) {
    if (!rows.length) return place.replaceChildren(element("p", { className: "soft" }, nothing));
    const heading = (text) => element("th", { scope: "col" }, text);
    const head = element("tr", {}, ...["latent", "what it is", "activation", ""].map(heading));
    head.title = "ordered by strength: activation times the weight of the latent's decoder";
    const body = rows.map(([latent, value]) => row(latent, value, chosen));
    const parts = [element("thead", {}, head), element("tbody", {}, ...body)];
    return place.replaceChildren(element("table", {}, ...parts));
  }

  return {
    learn,
    forget: () => known.clear(),
    of,
    words,
    page,
    share,
    list,
    chosen: (listener) => (onChoose = listener),
    steered: (listener) => (onSteer = listener),
  };
})();
