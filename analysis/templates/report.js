const cards = [...document.querySelectorAll('#cards .cards')].map(list => [list, [...list.children]]);
const [sort, find, alive, count] = ['sort', 'find', 'alive', 'count'].map(id => document.getElementById(id));
function arrange() {
  const [key, way] = sort.value.split(' '), words = find.value.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0, all = 0;
  for (const [list, members] of cards) {
    const sign = way === 'up' ? 1 : -1;
    members.sort((a, b) => sign * (a.dataset[key] - b.dataset[key]) || a.dataset.number - b.dataset.number);
    for (const card of members) {
      const text = card.textContent.toLowerCase();
      const matches = word => /^\d+$/.test(word) ? card.dataset.number === word : text.includes(word);
      const visible = words.every(matches) && !(alive.checked && card.dataset.dead === '1');
      card.style.display = visible ? '' : 'none';
      shown += visible; all += 1;
      list.append(card);
    }
  }
  count.textContent = `${shown} of ${all}`;
}
for (const control of [sort, find, alive]) control.addEventListener('input', arrange);
arrange();
