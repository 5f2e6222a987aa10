# What people do with npm, in the directory $1, without a registry: packages with programs and many files, links, scripts.
set -eu
mkdir "$1/npm" && cd "$1/npm"
export npm_config_cache=/tmp/ninep-npm npm_config_update_notifier=false npm_config_fund=false npm_config_audit=false
for name in left right; do
    mkdir -p $name/lib
    for i in $(seq 150); do echo "exports.n = $i;" >$name/lib/m$i.js; done
    cat >$name/package.json <<JSON
{ "name": "$name", "version": "1.0.0", "bin": { "$name": "cli.js" }, "main": "lib/m7.js",
  "scripts": { "postinstall": "node -e 'require(\"fs\").writeFileSync(\"built\", \"yes\")'" } }
JSON
    printf '#!/usr/bin/env node\nconsole.log("%s", require("./lib/m7.js").n);\n' $name >$name/cli.js
done
(cd left && npm pack --silent >/dev/null)
mkdir app && cd app
cat >package.json <<'JSON'
{ "name": "app", "version": "1.0.0", "scripts": { "hello": "left && right" },
  "dependencies": { "left": "file:../left/left-1.0.0.tgz", "right": "file:../right" } }
JSON
npm install --offline --silent
test "$(npm run --silent hello)" = "left 7
right 7"
test -L node_modules/.bin/left && test -L node_modules/right && test -f node_modules/left/built
test "$(node -p 'require("left").n')" = 7
npm ls --silent >/dev/null
npm ci --offline --silent
test "$(find node_modules/left -type f | wc -l)" -gt 150
npm uninstall --offline --silent left
test ! -e node_modules/left
cd .. && rm -rf app left right
test -z "$(ls -A)"
echo npm done
