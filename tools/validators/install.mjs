// Installs the packages of package-lock.json into node_modules, once: `node install.mjs`. Tests, make and several of both at once
// may call it; one installs, the others wait for it.
import { createHash } from 'node:crypto'
import { spawnSync } from 'node:child_process'
import { mkdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { setTimeout } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'

const here = dirname(fileURLToPath(import.meta.url))
const stamp = join(here, 'node_modules', '.installed')
const lock = join(here, '.install.lock')
const waitLimit = 300_000 // ms; npm ci takes some 10 s
const want = createHash('sha256').update(readFileSync(join(here, 'package-lock.json'))).digest('hex')

function installed() {
  try {
    return readFileSync(stamp, 'utf8') === want
  } catch {
    return false
  }
}

// A folder is the lock: mkdir is atomic everywhere. The holder's pid tells whether it still lives.
function acquire() {
  try {
    mkdirSync(lock)
    writeFileSync(join(lock, 'pid'), String(process.pid))
    return true
  } catch (e) {
    if (e.code !== 'EEXIST') throw e
    return false
  }
}

function abandoned() {
  try {
    const pid = readFileSync(join(lock, 'pid'), 'utf8')
    if (pid === '') return false
    process.kill(Number(pid), 0)
    return false
  } catch (e) {
    if (e.code === 'ESRCH') return true
    if (e.code !== 'ENOENT') return false
  }
  try {
    return Date.now() - statSync(lock).mtimeMs > 10_000 // killed between mkdir and writing its pid
  } catch {
    return false
  }
}

const deadline = Date.now() + waitLimit
while (!installed()) {
  if (acquire()) {
    try {
      if (installed()) break
      const npm = spawnSync('npm', ['ci', '--no-audit', '--no-fund'], { cwd: here, stdio: ['ignore', 2, 2] })
      if (npm.error) throw npm.error
      if (npm.status !== 0) throw new Error(`npm ci in tools/validators ended with status ${npm.status}`)
      writeFileSync(stamp, want)
    } finally {
      rmSync(lock, { recursive: true, force: true })
    }
  } else if (abandoned()) {
    rmSync(lock, { recursive: true, force: true })
  } else if (Date.now() > deadline) {
    throw new Error(`another installation holds ${lock} for more than ${waitLimit / 1000} s; remove that folder if none runs`)
  } else {
    await setTimeout(200)
  }
}
