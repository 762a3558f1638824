"use strict";
(() => {
  const about = JSON.parse(document.getElementById("about").textContent);
  const one = (root, selector) => root.querySelector(selector);
  const box = document.getElementById("photos"), status = document.getElementById("status"), input = document.getElementById("files");
  const drop = document.getElementById("drop");
  const percent = share => Math.round(100 * share) + "\u00a0%";
  const pause = ms => new Promise(done => setTimeout(done, ms));
  const HEADS = { advised: "What to change", perhaps: "Might help; these photos cannot tell" };
  const REST = { fine: "fine as it is", "not worth it": "the true scores give no reason to change it", "left out": "not measured" };
  let shown = [], chosen = new AbortController();
  document.body.classList.toggle("worthless", !about.beats_constant);

  // Every problem keeps its line until other photos are chosen.
  const problem = text => document.getElementById("problems").append(element("p", "fault", text));

  const read = async file => {
    try {
      return await file.arrayBuffer();
    } catch {
      throw new Error(file.name + " cannot be read: it is a folder, or was changed or removed after you chose it. Please choose it again.");
    }
  };

  // A busy coach answers 503; the request is then repeated. `signal` ends requests and waiting for photos that are no longer shown.
  const LOST = "The coach does not answer. Is the program still running?";
  const ask = async (where, body, signal) => {
    for (let attempt = 0; ; attempt++) {
      signal.throwIfAborted();
      let answer;
      try {
        answer = await fetch(where, { method: "POST", headers: { "content-type": "application/octet-stream" }, body, signal });
      } catch {
        signal.throwIfAborted();
        throw new Error(LOST);
      }
      if (answer.ok) return answer;
      const error = await answer.json().catch(() => ({}));
      if (answer.status !== 503 || attempt >= 20) throw new Error(error.fault || "The coach refused the request (status " + answer.status + ").");
      await pause(1000 * Number(answer.headers.get("retry-after") || 2) * (0.5 + Math.random()));
    }
  };

  const showDoubt = (card, found) => {
    one(card, ".result").replaceChildren(
      element("p", "banner", "No score. Is this a photo of a pet? " + found.doubt[0].toUpperCase() + found.doubt.slice(1) + "."));
    one(card, ".mapping").hidden = true;
    one(card, ".waiting").remove();
    one(card, ".result").hidden = false;
  };

  const showScore = (card, found) => {
    const at = value => (100 * (value - 1)) / 99 + "%";
    one(card, ".number").textContent = found.score.toFixed(0);
    one(card, ".chance").textContent = percent(found.beats_median) + " chance to beat the middle photo, "
      + percent(found.beats_top_quarter) + " to reach the best quarter";
    const rounded = Object.fromEntries(["low", "high", "half_low", "half_high"].map(key => [key, Math.round(found[key])]));
    one(card, ".half").textContent = "Half of such photos truly got " + rounded.half_low + " to " + rounded.half_high + " of 100.";
    one(card, ".most-words").textContent = "; nine of ten such photos truly got " + rounded.low + " to " + rounded.high + "."
      + (about.indicative ? " Indicative: measured on only " + about.rows + " photos." : "");
    const bar = one(card, ".bar");
    bar.setAttribute("aria-label", "Score " + found.score.toFixed(0) + " on a scale from 1 to 100; half of such photos " + rounded.half_low
      + " to " + rounded.half_high + ", nine of ten " + rounded.low + " to " + rounded.high + "; the middle photo has " + about.median);
    for (const [part, from, to] of [[".most", found.low, found.high], [".half-of-them", found.half_low, found.half_high]]) {
      one(bar, part).style.left = at(from);
      one(bar, part).style.width = (100 * (to - from)) / 99 + "%";
    }
    one(bar, ".middle").style.left = at(about.median);
    one(bar, ".dot").style.left = at(found.score);
    one(card, ".ends .median").style.left = Math.min(Math.max((100 * (about.median - 1)) / 99, 18), 82) + "%";
    one(card, ".ends .median").textContent = "middle photo " + about.median;
    for (const note of found.notes) one(card, ".notes").append(element("li", "", note));
    one(card, ".result").hidden = false;
  };

  const element = (name, kind, text) => {
    const made = document.createElement(name);
    if (kind) made.className = kind;
    if (text) made.textContent = text;
    return made;
  };

  const showTips = (card, tips) => {
    const place = one(card, ".tips"), rest = element("details");
    rest.append(element("summary", "", "Everything else that was checked"));
    for (const [kind, head] of Object.entries(HEADS)) {
      const own = tips.filter(tip => tip.kind === kind);
      if (own.length) place.append(element("h3", "", head));
      for (const tip of own) place.append(tipText(tip));
    }
    if (!tips.some(tip => tip.kind in HEADS)) place.append(element("h3", "", "Nothing to change among the things we measure"));
    for (const tip of tips.filter(tip => tip.kind in REST)) rest.append(tipText(tip, REST[tip.kind]));
    if (rest.children.length > 1) place.append(rest);
    place.hidden = false;
  };

  const tipText = (tip, word) => {
    const made = element("div", "tip " + tip.kind.replaceAll(" ", "-"));
    made.append(element("b", "", word ? tip.key + ": " + word : tip.advice));
    if (tip.promise) made.append(element("span", "gain", tip.promise));
    const figures = element("details"), strength = tip.evidence.split(":")[0];
    if (!word && strength) made.append(element("span", "soft", strength[0].toUpperCase() + strength.slice(1) + "."));
    figures.append(element("summary", "", "Figures"), element("span", "soft", "Based on: " + tip.based_on + "."));
    if (tip.evidence) figures.append(element("span", "soft", "Evidence: " + tip.evidence + "."));
    if (tip.promise && tip.adjusted) figures.append(element("span", "soft", "The gain compares photos that are alike in all other columns."));
    made.append(figures);
    return made;
  };

  const showCrop = (card, crop, shot) => {
    const place = one(card, ".crops");
    if (!crop.worth) {
      place.replaceChildren(element("p", "soft", about.drawn ? "Crop: none. A drawn pet's true score does not depend on the crop."
        : crop.tried === 1 ? "Crop: none, because no crop surely keeps the whole pet."
        : "Crop: none of " + crop.tried + " that keep the whole pet scores a point more than the whole photo; a smaller gain is within the networks' own error."));
    } else {
      const draw = (canvas, [left, top, right, bottom], text) => {
        const wide = shot.naturalWidth * (right - left), high = shot.naturalHeight * (bottom - top), shrink = Math.min(1, 480 / Math.max(wide, high));
        canvas.width = Math.max(1, Math.round(wide * shrink));
        canvas.height = Math.max(1, Math.round(high * shrink));
        canvas.getContext("2d").drawImage(shot, left * shot.naturalWidth, top * shot.naturalHeight, wide, high, 0, 0, canvas.width, canvas.height);
        canvas.setAttribute("aria-label", text);
        canvas.nextElementSibling.textContent = text;
      };
      draw(one(place, ".before"), [0, 0, 1, 1], "as it is: " + crop.whole.toFixed(1));
      draw(one(place, ".after"), crop.box, "cropped: " + crop.score.toFixed(1));
      one(place, ".words").textContent = "By the networks' scores this is the best of " + crop.tried + " crops that keep the whole pet, about "
        + crop.gain.toFixed(0) + (Math.round(crop.gain) === 1 ? " point" : " points") + " better than the whole photo. The gain is optimistic, "
        + "because it is the best of many. Whether such crops truly do better was not measured.";
    }
    place.hidden = false;
  };

  const showMap = (card, found) => {
    const overlay = one(card, ".saliency"), progress = one(card, ".progress");
    overlay.src = found.picture;
    overlay.alt = "Map over the photo: red places raise the score, blue places lower it";
    overlay.hidden = false;
    one(card, ".stack").classList.add("grey");
    one(card, ".slider").hidden = one(card, ".legend").hidden = false;
    one(card, ".legend .low").textContent = "lowers, -" + found.scale;
    one(card, ".legend .high").textContent = "+" + found.scale + " points, raises";
    const sure = found.relative_error === null ? "" : ", relative error " + percent(found.relative_error);
    const word = { precise: "finished", "budget spent": "finished, less precise than planned", "no signal found": "finished, nothing stands out from noise" }[found.verdict] || "coarse, still growing";
    progress.textContent = "Map " + word + ": " + found.masks + " half-hidden copies were scored" + sure + "."
      + (found.done ? " A place's number is what the score gains when the place and its surroundings are shown, with the rest half hidden." : "");
  };

  const grow = async item => {
    const button = one(item.card, ".ask");
    button.disabled = true;
    one(item.card, ".progress").textContent = "making the map ...";
    try {
      const answer = await ask("map", await read(item.file), item.signal);
      const reader = answer.body.getReader(), decoder = new TextDecoder();
      let rest = "";
      for (;;) {
        const { done, value } = await reader.read();
        if (done) break;
        rest += decoder.decode(value, { stream: true });
        const lines = rest.split("\n");
        rest = lines.pop();
        for (const line of lines) if (line) showMap(item.card, JSON.parse(line));
      }
      button.hidden = true;
    } catch (error) {
      if (item.signal.aborted) return;
      one(item.card, ".progress").textContent = error instanceof TypeError ? LOST : error.message;  // TypeError: the connection broke
      button.disabled = false;
    }
  };

  const place = (card, fit) => {
    // If the network sees only the largest centred square, the map covers that square.
    const shot = one(card, ".shot"), overlay = one(card, ".saliency");
    if (fit !== "crop" || !shot.naturalWidth) return;
    const side = Math.min(shot.naturalWidth, shot.naturalHeight), wide = side / shot.naturalWidth, high = side / shot.naturalHeight;
    Object.assign(overlay.style, { width: 100 * wide + "%", height: 100 * high + "%", left: 50 * (1 - wide) + "%", top: 50 * (1 - high) + "%" });
  };

  const add = file => {
    const card = one(document.getElementById("card").content.cloneNode(true), "article");
    const shot = one(card, ".shot"), slider = one(card, ".slider input"), { signal } = chosen;
    const item = { file, card, url: URL.createObjectURL(file), found: null, signal };
    // The coach sends the picture that it scores: upright, which browsers do not do for every format, and also of a TIFF.
    const preview = async () => {
      const picture = await (await ask("preview", await read(file), signal)).blob();
      URL.revokeObjectURL(item.url);
      item.url = URL.createObjectURL(picture);
    };
    item.loaded = new Promise(done => {
      shot.addEventListener("load", () => { place(card, about.fit); done(true); });
      shot.addEventListener("error", () => {
        one(card, "figcaption").textContent = "This file cannot be shown.";
        shot.hidden = true;
        done(false);
      });
    });
    preview().catch(() => { /* its score says why */ }).then(() => { shot.src = item.url; });
    one(card, ".name").textContent = file.name;
    shot.alt = "The photo " + file.name;
    slider.addEventListener("input", () => { one(card, ".saliency").style.opacity = slider.value / 100; });
    one(card, ".saliency").style.opacity = 0.75;
    one(card, ".ask").addEventListener("click", () => grow(item));
    box.append(card);
    return item;
  };

  const look = async item => {
    const waiting = one(item.card, ".waiting");
    try {
      waiting.textContent = "scoring ...";
      const found = await (await ask("score", await read(item.file), item.signal)).json();
      (found.doubt ? showDoubt : showScore)(item.card, found);
      if (!found.doubt) item.found = found;
    } catch (error) {
      if (item.signal.aborted) return;
      one(item.card, ".fault").textContent = error.message;
      one(item.card, ".fault").hidden = false;
      one(item.card, ".mapping").hidden = true;
      waiting.remove();
    }
  };

  const advise = async item => {
    const waiting = one(item.card, ".waiting");
    if (!about.beats_constant) return waiting.remove();
    try {
      waiting.textContent = "looking for improvements ...";
      showTips(item.card, await (await ask("tips", await read(item.file), item.signal)).json());
      waiting.textContent = "trying crops ...";
      const crop = await (await ask("crop", await read(item.file), item.signal)).json();
      if (await item.loaded) showCrop(item.card, crop, one(item.card, ".shot"));
      waiting.remove();
    } catch (error) {
      if (item.signal.aborted) return;
      waiting.textContent = error.message;
    }
  };

  const rank = async items => {
    if (items.length < 2) return;
    const found = await (await ask("order", JSON.stringify({ scores: items.map(item => item.found.score) }), items[0].signal)).json();
    await Promise.all(items.map(item => item.loaded));
    const list = document.getElementById("ranks");
    list.replaceChildren();
    for (const row of found.order) {
      const item = items[row.place], line = element("li"), inner = element("div", "rank"), picture = element("img");
      item.loaded.then(() => { picture.src = item.url; });
      picture.alt = "";
      const { beats_median, half_low, half_high, score } = item.found;
      const text = row.rank + ". " + item.file.name + ": " + percent(beats_median) + " chance to beat the middle photo, half of such photos got "
        + half_low.toFixed(0) + " to " + half_high.toFixed(0) + " (score " + score.toFixed(1) + ")"
        + (row.rank === 1 ? "" : "; " + row.behind_best.toFixed(1) + " points behind the first, which truly does better in "
          + percent(row.best_is_better) + " of such pairs");
      inner.append(picture, element("span", "", text));
      line.append(inner);
      list.append(line);
      box.append(item.card);
    }
    document.getElementById("order-head").textContent = !about.beats_constant ? "This run cannot tell which is better"
      : found.order[0].clear ? "Use this one first" : "The first two are too close to call";
    document.getElementById("order").hidden = false;
  };

  const take = async own => {
    if (!own.length) return;
    chosen.abort();
    chosen = new AbortController();
    const { signal } = chosen;
    for (const item of shown) URL.revokeObjectURL(item.url);
    delete document.body.dataset.done;
    box.replaceChildren();
    document.getElementById("problems").replaceChildren();
    document.getElementById("order").hidden = true;
    const items = shown = own.map(add);
    status.textContent = own.length === 1 ? "Looking at one photo ..." : "Looking at " + own.length + " photos ...";
    for (const item of items) {
      await look(item);
      if (signal.aborted) return;
    }
    const fine = items.filter(item => item.found);
    try { await rank(fine); } catch (error) { if (!signal.aborted) problem("The photos are not in order. " + error.message); }
    if (signal.aborted) return;
    for (const item of items) if (!item.found) box.append(item.card);  // photos without a score come last
    status.textContent = fine.length + " of " + own.length + (own.length === 1 ? " photo" : " photos") + " scored.";
    if (fine.length === 1) grow(fine[0]);
    for (const item of fine) {
      await advise(item);
      if (signal.aborted) return;
    }
    document.body.dataset.done = String(own.length);
  };

  const dropped = items => {
    const files = [], folders = [];
    for (const item of items.filter(item => item.kind === "file")) {
      const entry = item.webkitGetAsEntry?.();
      if (entry?.isDirectory) folders.push(entry.name);
      else files.push(item.getAsFile());
    }
    document.getElementById("problems").replaceChildren();
    take(files);
    for (const name of folders) problem(name + " is a folder: open it and drop the photos in it.");
  };

  // An input that still names a file takes no notice when the same file is chosen again.
  input.addEventListener("change", () => {
    const files = [...input.files];
    input.value = "";
    take(files);
  });
  window.addEventListener("pageshow", () => { input.value = ""; });
  drop.addEventListener("submit", event => event.preventDefault());
  for (const kind of ["dragover", "dragleave", "drop"]) {
    document.addEventListener(kind, event => {
      event.preventDefault();
      drop.classList.toggle("over", kind === "dragover");
      if (kind === "drop") dropped([...event.dataTransfer.items]);
    });
  }
})();
