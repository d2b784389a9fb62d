// Brings the page of an explained text to life: which token is looked at, and which head of attention.
"use strict";

// An element with a class and children; texts are only ever texts.
function make(tag, kind, ...children) {
  const element = document.createElement(tag);
  element.className = kind;
  element.append(...children);
  return element;
}

function isolated(text) {
  return make("bdi", "", text);
}

function percent(chance) {
  return chance >= 0.0995 ? `${(100 * chance).toFixed(0)} %` : `${(100 * chance).toPrecision(2)} %`;
}

// Arrow keys, Home and End move along a row of buttons, of which one at a time is in the order of Tab.
function walk(buttons, columns, choose) {
  buttons.forEach((button, at) => {
    button.addEventListener("click", () => choose(at));
    button.addEventListener("keydown", (event) => {
      const rtl = getComputedStyle(button).direction === "rtl" ? -1 : 1;
      const steps = { ArrowRight: rtl, ArrowLeft: -rtl, ArrowDown: columns, ArrowUp: -columns, Home: -at,
        End: buttons.length - 1 - at };
      const next = buttons[at + steps[event.key]];
      if (next) {
        event.preventDefault();
        choose(at + steps[event.key]);
        next.focus();
      }
    });
  });
}

function mark(buttons, chosen) {
  buttons.forEach((button, at) => {
    button.tabIndex = at === chosen ? 0 : -1;
    button.setAttribute("aria-pressed", at === chosen);
  });
}

function explore(section) {
  const data = JSON.parse(section.querySelector("script.data").textContent);
  const packed = Uint8Array.from(atob(data.attention), (c) => c.charCodeAt(0));
  const length = data.ids.length, layers = data.lens.length - 1, heads = data.heads;
  const size = data.causal ? (length * (length + 1)) / 2 : length * length;
  const tokens = [...section.querySelectorAll(".surprisal button")];
  const seen = [];
  // Head number `heads` is the mean of all.
  const state = { token: data.start, layer: layers - 1, head: heads };

  // ── Attention ──────────────────────────────────────────────────────────────────────────────────────────────

  function weight(layer, head, from, to) {
    if (head === heads) {
      let sum = 0;
      for (let h = 0; h < heads; h++) sum += weight(layer, h, from, to);
      return sum / heads;
    }
    if (data.causal && to > from) return 0;
    const place = data.causal ? (from * (from + 1)) / 2 + to : from * length + to;
    // A byte holds the square root, so that small weights are told apart.
    return (packed[(layer * heads + head) * size + place] / 255) ** 2;
  }

  function draw(canvas, layer, head, color) {
    canvas.width = canvas.height = length;
    const picture = new ImageData(length, length);
    for (let from = 0; from < length; from++) {
      for (let to = 0; to < length; to++) {
        const at = 4 * (from * length + to);
        picture.data.set(color, at);
        picture.data[at + 3] = 255 * Math.sqrt(weight(layer, head, from, to));
      }
    }
    canvas.getContext("2d").putImageData(picture, 0, 0);
  }

  function drawAll() {
    const color = getComputedStyle(section).getPropertyValue("--ink-of-heads").split(",").map(Number);
    pictures.forEach((button, at) => draw(button.firstChild, Math.floor(at / heads), at % heads, color));
  }

  function showAttention({ layer, head, token } = state) {
    const whose = head === heads ? `mean of ${heads === 1 ? "1 head" : `${heads} heads`}` : `head ${head + 1}`;
    told.replaceChildren(
      "“", isolated(data.pieces[token]), `” attends in layer ${layer + 1}, ${whose}, to what has a color:`);
    seen.forEach((button, to) => {
      const share = weight(layer, head, token, to);
      button.style.setProperty("--heat", Math.sqrt(share).toFixed(3));
      button.title = percent(share);
      button.classList.toggle("from", to === token);
    });
  }

  function option(text, value) {
    const element = make("option", "", text);
    element.value = value;
    return element;
  }

  const attention = section.querySelector(".attention");
  const told = make("p", "");
  const layerChoice = make("select", "");
  const headChoice = make("select", "");
  for (let layer = 0; layer < layers; layer++) layerChoice.append(option(`${layer + 1}`, layer));
  headChoice.append(option("mean of all", heads));
  for (let head = 0; head < heads; head++) headChoice.append(option(`${head + 1}`, head));
  layerChoice.onchange = () => choose({ layer: Number(layerChoice.value) });
  headChoice.onchange = () => choose({ head: Number(headChoice.value) });
  const strip = make("p", "flow seen");
  strip.dir = section.querySelector(".surprisal").dir;
  tokens.forEach((token, at) => {
    const copy = token.cloneNode(true);
    copy.addEventListener("mouseenter", () => showAttention({ ...state, token: at }));
    strip.append(copy);
    if (token.nextSibling && token.nextSibling.nodeName === "BR") strip.append(make("br", ""));
    seen.push(copy);
  });
  strip.addEventListener("mouseleave", () => showAttention());
  const grid = make("div", "heads");
  grid.style.setProperty("--heads", heads);
  const pictures = [];
  for (let layer = 0; layer < layers; layer++) {
    for (let head = 0; head < heads; head++) {
      const button = make("button", "", make("canvas", ""));
      button.type = "button";
      button.title = `layer ${layer + 1}, head ${head + 1}`;
      button.setAttribute("aria-label", button.title);
      button.addEventListener("mouseenter", () => showAttention({ ...state, layer, head }));
      pictures.push(button);
      grid.append(button);
    }
  }
  grid.addEventListener("mouseleave", () => showAttention());
  attention.append(
    make("p", "controls", make("label", "", "Layer ", layerChoice), make("label", "", "Head ", headChoice)),
    told, strip,
    make("p", "soft", "Each square is a head: a row a token that attends, a column what it attends to. The first row of "
      + "squares is layer 1."),
    grid);

  // ── Predictions ────────────────────────────────────────────────────────────────────────────────────────────

  function bar(name, chance, real) {
    const line = make("span", "bar");
    line.style.setProperty("--share", chance);
    return make("li", real ? "real" : "", make("span", "name", isolated(name)), line,
      make("span", "percent", percent(chance)));
  }

  function showPredictions() {
    const { token } = state;
    // What is there in truth: the next piece, or the one that was hidden.
    const place = data.causal ? token + 1 : token;
    const bits = data.bits[place];
    const real = bits == null ? null : data.ids[place];
    const guesses = data.guesses[token];
    const items = guesses.map(([id, chance]) => bar(data.names[id], chance, id === real));
    if (real != null && !guesses.some(([id]) => id === real)) items.push(bar(data.pieces[place], 2 ** -bits, true));
    section.querySelector(".next ol").replaceChildren(...items);
    const where = isolated(data.pieces[token]);
    section.querySelector(".next figcaption").replaceChildren(...(data.causal ? ["Behind “", where, "”"] : [
      guesses.length ? "In the place of “" : "Nothing is predicted in the place of “", where, "”"]));
    const rows = data.lens.map((layer, at) => {
      const cells = layer[token].map(([id, chance]) => {
        const guess = make("span", id === real ? "guess real" : "guess", isolated(data.names[id]));
        guess.style.setProperty("--heat", Math.sqrt(chance).toFixed(3));
        guess.title = percent(chance);
        return guess;
      });
      const follows = data.follows[at][token];
      return make("tr", "", make("th", "", `${at}`), make("td", "", ...cells),
        make("td", "percent", follows == null ? "" : percent(follows)));
    });
    section.querySelector(".journey tbody").replaceChildren(...rows);
    for (const cell of section.querySelectorAll(".lens .here")) cell.classList.remove("here");
    for (const row of section.querySelectorAll(".lens tr")) row.children[token + 1].classList.add("here");
  }

  // ── What is chosen ─────────────────────────────────────────────────────────────────────────────────────────

  function choose(change) {
    Object.assign(state, change);
    mark(tokens, state.token);
    mark(seen, state.token);
    mark(pictures, state.head === heads ? state.layer * heads : state.layer * heads + state.head);
    if (state.head === heads) pictures.forEach((button) => button.setAttribute("aria-pressed", false));
    layerChoice.value = state.layer;
    headChoice.value = state.head;
    showPredictions();
    showAttention();
  }

  walk(tokens, 1, (token) => choose({ token }));
  walk(seen, 1, (token) => choose({ token }));
  walk(pictures, heads, (at) => choose({ layer: Math.floor(at / heads), head: at % heads }));
  section.querySelector(".lens").addEventListener("click", (event) => {
    const cell = event.target.closest("td, th");
    if (cell && cell.cellIndex > 0) choose({ token: cell.cellIndex - 1 });
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
  for (const part of section.querySelectorAll("[hidden]")) part.hidden = false;
  drawAll();
  choose({});
}

document.querySelectorAll("section.reading").forEach(explore);
