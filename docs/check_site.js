// What is wrong with a page: three functions that docs/check_site.py calls in the browser. Each returns texts.

// Figures and formulas that are not there, and markup that was not understood.
async function look() {
  const wrong = [];
  if (window.MathJax?.startup?.promise) await MathJax.startup.promise;
  for (const image of document.images) {
    image.loading = 'eager';
    await image.decode().catch(() => {});
    if (!image.naturalWidth) wrong.push(`image ${image.src} cannot be shown`);
  }
  for (const formula of document.querySelectorAll('.math')) {
    const rendered = formula.querySelector('mjx-container'), box = rendered?.getBoundingClientRect();
    const error = rendered?.querySelector('mjx-merror, [data-mjx-error]');
    if (!rendered || error) wrong.push(`formula not rendered: ${formula.textContent.trim()}`);
    else if (rendered.checkVisibility() && !(box.width && box.height)) wrong.push('a formula without a size');
  }
  const raw = /\$[^$\s][^$]*\$|\\\(|\\\[|\\begin\{|``|\*\*\w[^*]*\*\*/;
  for (const text of texts(document.querySelector('article'))) {
    const code = text.parentElement.closest('code, pre, script, style, mjx-container, .sig');
    if (!code && raw.test(text.data)) wrong.push(`raw markup: ${text.data.trim().slice(0, 80)}`);
  }
  return wrong;
}

// Whether the page, or on a phone the article as a whole, is wider than the screen, and elements that stick out.
function width() {
  const screen = document.documentElement.clientWidth, page = document.querySelector('.content');
  const over = Math.max(document.documentElement.scrollWidth - screen, page.scrollWidth - page.clientWidth);
  if (over <= 0) return [];
  const scrolls = box => box !== page && (getComputedStyle(box).overflowX !== 'visible' || scrolls(box.parentElement));
  const sticksOut = element => element.getBoundingClientRect().right > screen && !scrolls(element.parentElement);
  const wide = [...page.querySelectorAll('article *')].filter(sticksOut).map(element => element.outerHTML.slice(0, 90));
  return [`${over} pixels wider than ${screen}: ${wide.slice(0, 2).join(' ... ')}`];
}

// Texts whose contrast is below 4.5 (3 for large ones: the level AA of WCAG), and figures without a light background.
function contrast() {
  const wrong = new Map(), elements = new Set(document.querySelectorAll('mjx-c'));
  for (const text of texts(document.body)) elements.add(text.parentElement);
  for (const element of elements) {
    if (!element.checkVisibility({visibilityProperty: true, opacityProperty: true})) continue;
    const style = getComputedStyle(element), below = background(element), above = over(parse(style.color), below);
    const [dark, light] = [luminance(above), luminance(below)].sort((a, b) => a - b);
    const size = parseFloat(style.fontSize), large = size >= 24 || (size >= 18.66 && style.fontWeight >= 700);
    const ratio = (light + 0.05) / (dark + 0.05), where = `${style.color} on rgb(${below.slice(0, 3).map(Math.round)})`;
    const what = `<${element.tagName} class="${element.className}">${element.textContent.trim().slice(0, 30)}`;
    if (ratio < (large ? 3 : 4.5)) wrong.set(where, `contrast ${ratio.toFixed(2)}: ${where}, ${what}`);
  }
  for (const image of document.querySelectorAll('article img')) {
    if (luminance(background(image)) < 0.8) wrong.set(image.src, `figure ${image.src} without a light background`);
  }
  return [...wrong.values()];
}

// Texts that are not blank.
function* texts(root) {
  const walker = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) if (walker.currentNode.data.trim()) yield walker.currentNode;
}

// Colours: red, green and blue to 255, and opacity to 1. A canvas reads each notation of CSS.
const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true}), known = new Map();

function parse(color) {
  if (!known.has(color)) {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = color;
    canvas.fillRect(0, 0, 1, 1);
    const [red, green, blue, opacity] = canvas.getImageData(0, 0, 1, 1).data;
    known.set(color, [red, green, blue, opacity / 255]);
  }
  return known.get(color);
}

function over(top, below) {
  return [0, 1, 2].map(i => top[i] * top[3] + below[i] * (1 - top[3])).concat(1);
}

function background(element) {
  if (!element) return [255, 255, 255, 1];
  const color = parse(getComputedStyle(element).backgroundColor);
  return color[3] === 1 ? color : over(color, background(element.parentElement));
}

function luminance(color) {
  const linear = v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const [red, green, blue] = color.slice(0, 3).map(v => linear(v / 255));
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
}
