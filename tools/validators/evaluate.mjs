// Evaluates JSONata expressions by the version that Step Functions documents (2.0.6). Standard input: a JSON array of
// {expression, variables}; standard output: one of {value}, {undefined: true} or {error}, in the same order.
import { readFileSync } from 'node:fs'
import jsonata from 'jsonata'

const answers = []
for (const { expression, variables } of JSON.parse(readFileSync(0, 'utf8'))) {
  try {
    const value = await jsonata(expression).evaluate(undefined, variables)
    if (value === undefined) answers.push({ undefined: true })
    else if (value?._jsonata_function || value?._jsonata_lambda) answers.push({ error: 'the value is a function' })
    else answers.push({ value })
  } catch (e) {
    answers.push({ error: `${e.code ?? ''} ${e.message}`.trim() })
  }
}
process.stdout.write(JSON.stringify(answers))
