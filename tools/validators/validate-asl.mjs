// Checks Amazon States Language files by asl-validator (schema, references, JSONata syntax) and by the AWS language service (finds
// what the former does not: JitterStrategy, BackoffRate). `node validate-asl.mjs file...`; prints one line a problem, exit 1 if any.
import { readFileSync } from 'node:fs'
import aslValidator from 'asl-validator'
import languageService from 'amazon-states-language-service'

const validate = aslValidator.default ?? aslValidator
let problems = 0
const problem = (file, tool, text) => {
  problems++
  console.log(`${file}: ${tool}: ${text}`)
}

const files = process.argv.slice(2)
if (files.length === 0) {
  console.error('usage: node validate-asl.mjs file...')
  process.exit(2)
}
for (const file of files) {
  const text = readFileSync(file, 'utf8')
  const result = validate(JSON.parse(text), { checkArn: true, checkPaths: true })
  if (!result.isValid) problem(file, 'asl-validator', result.errorsText())

  const service = languageService.getLanguageService({})
  const document = languageService.TextDocument.create(`file:///${file}`, 'asl', 1, text)
  const diagnostics = await service.doValidation(document, service.parseJSONDocument(document))
  for (const d of diagnostics) problem(file, `language service, line ${d.range.start.line + 1}`, d.message)
}
process.exit(problems === 0 ? 0 : 1)
