"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const box = document.getElementById("box");
  const where = document.getElementById("where");
  const buttons = [...document.querySelectorAll("button[data-layer]")];

  // The part of the picture that one position of a layer sees.
  function show(layer, row, column, channel) {
    const field = data.fields[layer.name];
    const map = layer.vector ? "" : `position (${row}, ${column})`;
    const of = channel === undefined ? "" : `channel ${channel}, `;
    if (!field) {
      box.hidden = true;
      where.textContent = `${layer.name}: ${of}${map || "its receptive field is not known"}`;
      return;
    }
    const rows = data.axes[field.rows], columns = data.axes[field.columns];
    const [top, bottom] = rows[Math.min(row, rows.length - 1)];
    const [left, right] = columns[Math.min(column, columns.length - 1)];
    const [height, width] = data.size;
    box.hidden = false;
    box.style.top = `${(100 * top) / height}%`;
    box.style.left = `${(100 * left) / width}%`;
    box.style.height = `${(100 * (bottom - top + 1)) / height}%`;
    box.style.width = `${(100 * (right - left + 1)) / width}%`;
    const sees = `sees rows ${top} to ${bottom} and columns ${left} to ${right} of ${height} x ${width}`;
    where.textContent = `${layer.name}: ${of}${map ? map + " " : ""}${sees}.`
      + ` The field is ${field.size.join(" x ")}, including padding.`;
  }

  function showCentre(layer) {
    const [, height, width] = layer.shape;
    show(layer, layer.vector ? 0 : height >> 1, layer.vector ? 0 : width >> 1);
  }

  function panel(layer) {
    const [count, height, width, perRow, factor] = layer.maps;
    const gap = 2, rows = Math.ceil(count / perRow);
    const sheet = [perRow * (width + gap) - gap, rows * (height + gap) - gap];
    const fits = layer.vector ? Math.min(600 / width, 400 / height) : Math.min(960 / sheet[0], 112 / Math.max(height, width));
    const scale = Math.max(1, Math.min(16, Math.floor(fits)));
    const row = document.createElement("tr"), cell = document.createElement("td"), text = document.createElement("p");
    row.className = "panel";
    cell.colSpan = 11;
    const what = layer.vector ? `${layer.shape.join(" x ")} numbers, row by row`
      : `${count} of ${layer.shape[0]} channels of ${layer.shape[1]} x ${layer.shape[2]}`;
    const range = layer.range ? `from ${layer.range[0]} to ${layer.range[1]}` : "none of them finite";
    text.textContent = `${what}; ${range}, ${layer.zeros} % are zero. `
      + "Each map is scaled from its smallest value (black) to its largest (white)"
      + (factor > 1 ? `; one pixel is the mean of ${factor} x ${factor}.` : ".");
    const maps = document.createElement("div"), image = document.createElement("img");
    const spot = document.createElement("div");
    maps.className = "maps";
    maps.tabIndex = 0;
    maps.setAttribute("role", "group");
    maps.setAttribute("aria-label", `Feature maps of ${layer.name}; arrow keys move the position`);
    image.src = layer.png;
    image.alt = `Feature maps of ${layer.name}`;
    image.width = sheet[0] * scale;
    image.height = sheet[1] * scale;
    spot.className = "spot";
    spot.hidden = true;
    maps.append(image, spot);
    cell.append(text, maps);
    row.append(cell);

    // Position in the sheet without its gaps, in pixels of the thumbnails.
    const at = { x: width >> 1, y: height >> 1 };
    function move(x, y) {
      const across = Math.floor(x / width), down = Math.floor(y / height), channel = down * perRow + across;
      if (x < 0 || y < 0 || across >= perRow || channel >= count) return;
      at.x = x;
      at.y = y;
      spot.hidden = false;
      spot.style.left = `${(100 * (x + across * gap)) / sheet[0]}%`;
      spot.style.top = `${(100 * (y + down * gap)) / sheet[1]}%`;
      spot.style.width = `${100 / sheet[0]}%`;
      spot.style.height = `${100 / sheet[1]}%`;
      if (layer.vector) {
        show(layer, 0, 0, Math.min(y * width + x, layer.shape[0] - 1));
      } else {
        const middle = factor >> 1;
        show(layer, Math.min((y % height) * factor + middle, layer.shape[1] - 1),
          Math.min((x % width) * factor + middle, layer.shape[2] - 1), channel);
      }
    }
    maps.addEventListener("pointermove", (event) => {
      const place = image.getBoundingClientRect();
      const x = Math.floor(((event.clientX - place.left) / place.width) * sheet[0]);
      const y = Math.floor(((event.clientY - place.top) / place.height) * sheet[1]);
      if (x % (width + gap) >= width || y % (height + gap) >= height) return;
      move(x - Math.floor(x / (width + gap)) * gap, y - Math.floor(y / (height + gap)) * gap);
    });
    maps.addEventListener("focus", () => move(at.x, at.y));
    maps.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
      if (!step) return;
      event.preventDefault();
      move(at.x + step[0], at.y + step[1]);
    });
    return row;
  }

  function toggle(button, open) {
    const row = button.closest("tr"), isOpen = button.getAttribute("aria-expanded") === "true";
    if (open === isOpen) return;
    button.setAttribute("aria-expanded", String(!isOpen));
    if (isOpen) row.nextElementSibling.remove();
    else row.after(panel(data.layers[button.dataset.layer]));
  }

  buttons.forEach((button, i) => {
    const layer = data.layers[button.dataset.layer], row = button.closest("tr");
    row.addEventListener("pointerenter", () => showCentre(layer));
    button.addEventListener("focus", () => showCentre(layer));
    button.addEventListener("click", () => toggle(button));
    button.addEventListener("keydown", (event) => {
      const next = { ArrowUp: i - 1, ArrowDown: i + 1, Home: 0, End: buttons.length - 1 }[event.key];
      if (next === undefined || !buttons[next]) return;
      event.preventDefault();
      buttons[next].focus();
    });
  });
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    const inside = document.activeElement.closest("tr.panel");
    if (!inside) return;
    const button = inside.previousElementSibling.querySelector("button");
    toggle(button, false);
    button.focus();
  });

  // A step of the table and its dot in the plot light up together.
  document.querySelectorAll("[data-step]").forEach((one) => {
    const both = () => document.querySelectorAll(`[data-step="${one.dataset.step}"]`);
    one.addEventListener("pointerenter", () => both().forEach((each) => each.classList.add("on")));
    one.addEventListener("pointerleave", () => both().forEach((each) => each.classList.remove("on")));
  });

  document.getElementById("theme").addEventListener("click", () => {
    const root = document.documentElement, system = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
    root.dataset.theme = (root.dataset.theme || system) === "dark" ? "light" : "dark";
  });

  // page.html#layer=conv1 opens that layer's maps.
  function follow() {
    const name = new URLSearchParams(location.hash.slice(1)).get("layer");
    const button = buttons.find((each) => data.layers[each.dataset.layer].name === name);
    if (!button) return;
    toggle(button, true);
    button.focus();
    button.scrollIntoView({ block: "center" });
  }
  addEventListener("hashchange", follow);
  follow();
})();
