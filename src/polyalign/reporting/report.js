// Lets a reader choose the arm, the difference to the control and the order of a table of languages by languages.
// Without it, the table of the first arm stands as it is.
"use strict";

const number = (value) => value.toFixed(1).replace(/^-(?=0\.0$)/, "").replace("-", "−");
const signed = (value) => (number(value).match(/^(−|0\.0$)/) ? "" : "+") + number(value);
const range = ([value, low, high], write) => `${write(value)} [${number(low)}, ${number(high)}]`;

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

function choice(label, options, onchange) {
  const select = element("select", { onchange }, ...options.map(([value, text]) => element("option", { value }, text)));
  return [element("label", {}, `${label} `, select), select];
}

function enhance(section) {
  const data = JSON.parse(section.querySelector("script").textContent);
  const table = section.querySelector("table");
  const detail = element("p", { className: "detail" });
  detail.setAttribute("aria-live", "polite");
  const at = new Map(data.pairs.map(([row, column, ...rest]) => [`${row},${column}`, rest]));
  const [arms, arm] = choice("Arm", data.arms.map((name, place) => [place, name]), show);
  const [shows, what] = choice("Show", [["score", "score"], ["change", `difference to ${data.control}`]], show);
  const [sorts, order] = choice("Sort by", [["name", "language"], ["value", "what is shown"]], show);
  arm.value = data.arms.indexOf(data.first);
  section.prepend(element("div", { className: "controls" }, arms, shows, sorts));
  section.querySelector(".scroll").after(detail);
  table.addEventListener("pointerover", (event) => tell(event.target));
  table.addEventListener("focusin", (event) => tell(event.target));
  table.addEventListener("keydown", move);
  show();

  function tell(cell) {
    if (cell.tagName === "TD" && cell.title) detail.textContent = cell.title;
  }

  // The table is one stop of the tab key; arrows go from cell to cell.
  function move(event) {
    const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    const cell = event.target;
    if (!step || cell.tagName !== "TD") return;
    event.preventDefault();
    let [row, column] = [cell.parentNode.sectionRowIndex + step[0], cell.cellIndex + step[1]];
    const rows = table.tBodies[0].rows;
    while (rows[row]?.cells[column]?.tagName === "TD" && !rows[row].cells[column].title) {
      row += step[0];
      column += step[1];
    }
    const next = rows[row]?.cells[column];
    if (next?.tagName !== "TD") return;
    cell.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  }

  function shown(row, column) {
    const found = at.get(`${row},${column}`);
    return found && found[what.value === "score" ? 1 : 2][arm.value];
  }

  function ordered() {
    const places = [...data.tags.keys()];
    if (order.value === "name") return places;
    const mean = (place) => {
      const own = places.flatMap((other) => [shown(place, other), shown(other, place)]).filter(Boolean);
      return own.reduce((sum, [value]) => sum + value, 0) / (own.length || 1);
    };
    const means = new Map(places.map((place) => [place, mean(place)]));
    return places.sort((one, other) => means.get(one) - means.get(other));
  }

  function show() {
    const places = ordered();
    const values = places.flatMap((row) => places.map((column) => shown(row, column))).filter(Boolean);
    const most = Math.max(...values.map(([value]) => Math.abs(value)), 1e-9);
    const [low, high] = data.range;
    const depth = (value) => (what.value === "score" ? (value - low) / (high - low || 1) : Math.abs(value) / most);
    const name = data.arms[arm.value];
    const measure = what.value === "score" ? data.measure : `difference to ${data.control} in ${data.measure}`;
    table.caption.textContent = `${data.task}, ${name}: ${measure} from language to language`;
    table.tHead.rows[0].replaceChildren(
      element("th", { scope: "col" }, "From"),
      ...places.map((place) => element("th", { scope: "col", title: data.names[place] }, data.tags[place])),
    );
    table.tBodies[0].replaceChildren(
      ...places.map((row) =>
        element("tr", {}, element("th", { scope: "row" }, data.names[row]), ...places.map((column) => square(row, column, depth))),
      ),
    );
    const first = table.querySelector("td[title]");
    if (first) first.tabIndex = 0;
    detail.textContent = values.length ? "Point at a cell, or move through the table with the arrow keys." : "The control has no difference to itself.";
  }

  function square(row, column, depth) {
    const value = shown(row, column);
    if (!value) return element("td");
    const [items, scores, changes] = at.get(`${row},${column}`);
    const change = changes[arm.value];
    let title = `${data.names[row]} to ${data.names[column]}: ${range(scores[arm.value], number)}, n = ${items.toLocaleString("en")}`;
    if (change) title += `; ${range(change, signed)} against ${data.control}`;
    const clear = what.value === "change" && (value[1] > 0 || value[2] < 0);
    const text = what.value === "score" ? number(value[0]) : signed(value[0]);
    const cell = element("td", { title, tabIndex: -1 }, clear ? element("strong", {}, text) : text);
    cell.dataset.depth = "";
    cell.classList.toggle("loss", what.value === "change" && value[0] < 0);
    cell.style.setProperty("--depth", depth(value[0]).toFixed(3));
    return cell;
  }
}

document.querySelectorAll(".languages").forEach(enhance);
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((one) => (one.open = true)));
