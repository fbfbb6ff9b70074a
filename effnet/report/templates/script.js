"use strict";
const tip = document.getElementById("tip");
const rows = new Map([...document.querySelectorAll("tr[data-member]")].map((row) => [row.dataset.member, row]));
const points = [...document.querySelectorAll('svg g[id*="-point-"]')];
for (const point of points) {
  const row = rows.get(point.id.split("-point-")[1]);
  if (!row) continue;
  point.dataset.member = row.dataset.member;
  point.setAttribute("tabindex", "0");
  point.setAttribute("role", "img");
  point.setAttribute("aria-label", row.dataset.tip);
}
function light(member, on) {
  for (const each of [rows.get(member), ...points.filter((point) => point.dataset.member === member)]) each.classList.toggle("lit", on);
}
function show(element) {
  tip.textContent = rows.get(element.dataset.member).dataset.tip;
  tip.style.display = "block";
  const box = element.getBoundingClientRect();
  tip.style.left = Math.max(4, Math.min(box.right + 10, innerWidth - tip.offsetWidth - 8)) + "px";
  tip.style.top = Math.max(4, box.top - tip.offsetHeight - 8) + "px";
}
for (const element of [...rows.values(), ...points.filter((point) => point.dataset.member)]) {
  const member = element.dataset.member, point = element.tagName !== "TR";
  const enter = () => { light(member, true); if (point) show(element); };
  const leave = () => { light(member, false); tip.style.display = "none"; };
  element.addEventListener("mouseenter", enter);
  element.addEventListener("mouseleave", leave);
  element.addEventListener("focus", enter);
  element.addEventListener("blur", leave);
}
function select(element) {
  const range = document.createRange();
  range.selectNodeContents(element);
  getSelection().removeAllRanges();
  getSelection().addRange(range);
}
if (window.parent !== window) { // MLflow shows it in a frame that no link may leave: jumps are made here, addresses shown
  document.addEventListener("click", (event) => {
    const link = event.target.closest("a[href]");
    if (!link) return;
    event.preventDefault();
    const place = link.getAttribute("href");
    if (place.startsWith("#")) {
      document.getElementById(place.slice(1))?.scrollIntoView();
      return;
    }
    let address = link.nextElementSibling;
    if (!address?.classList.contains("address")) {
      address = document.createElement("code");
      address.className = "address";
      address.textContent = link.href;
      link.after(" ", address);
    }
    select(address);
  });
}
for (const button of document.querySelectorAll("button[data-copies]")) {
  const code = document.getElementById(button.dataset.copies);
  button.hidden = false;
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(code.textContent);
    } catch { // in a frame, where that is not allowed
      select(code);
      document.execCommand("copy");
    }
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  });
}
