"use strict";
// Puts the page together: what the address says (#crosscoder/latent) is what is shown.

(async () => {
  const { element, load } = crossdiff;
  const at = (id) => document.getElementById(id);
  let index = null;
  let shownTraining = null;
  let shownLatent = null;
  let turn = 0; // of what was asked for last: a slow answer to an earlier wish is dropped

  function say(text) {
    at("message").textContent = text;
    at("message").hidden = !text;
  }

  // {training, latent} of the address; latent is null without one. Says what is wrong with a bad one.
  function address() {
    const [name, number] = decodeURIComponent(location.hash.slice(1)).split("/");
    const known = (one) => name === one.link || name === one.name;
    const training = name ? index.trainings.find(known) : index.trainings[0];
    if (!training) {
      say(`There is no crosscoder ${name} here, but ${index.trainings.map((one) => one.link).join(", ")}.`);
      return { training: index.trainings[0], latent: null };
    }
    if (number === undefined || number === "") return { training, latent: null };
    const latent = /^\d+$/.test(number) ? Number(number) : Infinity;
    if (latent < training.latents) return { training, latent };
    say(`There is no latent ${number} in ${training.link}. Its latents are 0 to ${training.latents - 1}.`);
    return { training, latent: null };
  }

  function go(training, latent) {
    location.hash = latent === null ? training.link : `${training.link}/${latent}`;
  }

  function cautions(piece) {
    at("limits").hidden = !piece.does_not_apply;
    at("limits").textContent =
      `Classes, norm differences, ν and twins do not apply: ${piece.does_not_apply}. ` +
      "Their columns are empty.";
    const name = (entry) => `${entry.name} (latent ${entry.latent} of weights ${entry.weights})`;
    const names = piece.stale.map(name).join(", ");
    at("stale").hidden = !names;
    at("stale").textContent =
      `These names in the catalogue are stale and not used: ${names}. ` +
      `This training's weights are ${piece.weights}.`;
  }

  function sortChoices(sorting) {
    const choices = crossdiff.table
      .columns()
      .map(({ key, label }) => element("option", { value: key, selected: key === sorting.key }, label));
    at("sort").replaceChildren(...choices);
    at("direction").textContent = sorting.ascending ? "↑ ascending" : "↓ descending";
  }

  // Previous and next: in the order that the table has now.
  function neighbours() {
    for (const [id, step] of [["previous", -1], ["next", 1]]) {
      const other = crossdiff.table.beside(shownLatent, step);
      at(id).disabled = other === undefined;
      at(id).onclick = () => go(shownTraining, other);
    }
  }

  async function route() {
    const mine = ++turn;
    say("");
    const { training, latent } = address();
    try {
      const piece = await load(`${training.name}/table`);
      if (mine !== turn) return;
      document.body.dataset.view = latent === null ? "table" : "latent";
      at("training").value = training.name;
      if (shownTraining !== training) {
        crossdiff.table.show(at("table"), training, piece);
        cautions(piece);
        shownTraining = training;
      }
      document.title = `${training.link}${latent === null ? "" : `/${latent}`}: latents of ${index.pair}`;
      if (latent !== null) {
        await crossdiff.latent.show(at("latent"), training, index.trainings, piece, latent, index.chunk);
        if (mine !== turn) return;
        at("latent-view").scrollTop = 0;
        at("latent").querySelector("h2").focus({ preventScroll: true });
      }
      crossdiff.table.resize();
      crossdiff.table.mark(latent);
      shownLatent = latent;
      neighbours();
      document.body.dataset.ready = location.hash || "#";
    } catch (error) {
      say(error.message);
    }
  }

  function listen() {
    const table = crossdiff.table;
    table.opened((latent) => go(shownTraining, latent));
    table.changed((shown, all, sorting) => {
      const part = shown === all ? "" : `${shown.toLocaleString("en")} of `;
      at("count").textContent = `${part}${all.toLocaleString("en")} latents`;
      sortChoices(sorting);
      neighbours();
    });
    const ascending = () => at("direction").textContent.startsWith("↑");
    at("training").addEventListener("change", (event) => {
      go(index.trainings.find((one) => one.name === event.target.value), null);
    });
    at("search").addEventListener("input", (event) => table.search(event.target.value));
    at("show").addEventListener("change", (event) => table.filter(event.target.value));
    at("sort").addEventListener("change", (event) => table.sort(event.target.value, ascending()));
    at("direction").addEventListener("click", () => table.sort(at("sort").value, !ascending()));
    at("close").addEventListener("click", () => {
      go(shownTraining, null);
      table.focus();
    });
    window.addEventListener("hashchange", route);
    window.addEventListener("resize", table.resize);
    document.addEventListener("keydown", (event) => {
      if (event.target.closest("input, select, textarea")) return;
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      if (event.key === "Escape") at("close").click();
      else if (event.key === "/") at("search").focus();
      else if (event.key === "t") table.focus();
      else if (event.key === "j") at("next").click();
      else if (event.key === "k") at("previous").click();
      else return;
      event.preventDefault();
    });
  }

  try {
    index = await load("index");
    const choice = (one) => element("option", { value: one.name }, `${one.crosscoder}, seed ${one.seed}`);
    at("training").replaceChildren(...index.trainings.map(choice));
    listen();
    await route();
  } catch (error) {
    say(error.message);
  }
})();
